"""What the routes work with."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from flux.domain.execution import ExecutionState
from flux.ports import ExecutionRow
from flux.secret_managers import SecretManager
from flux.server.control import Control
from flux.server.news import News, wait


@dataclass(frozen=True, slots=True)
class Surroundings:
    """One for each application.

    Args:
        control: The use cases.
        news: Tells of changes.
        work: Tells the worker of this process, if there is one, that something may be due.
        secrets: What keeps secrets.
    """

    control: Control
    news: News
    work: Callable[[], None] = lambda: None
    secrets: Callable[[], SecretManager] | None = None

    async def until_settled(self, row: ExecutionRow, seconds: float) -> ExecutionRow:
        """The execution, when it is finished or paused, or when so much time has passed.

        Args:
            row: It, as it was a moment ago.
        """
        if not seconds:
            return row
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + seconds
        with self.news.about(row.execution_id) as changed:
            while True:
                row = self.control.row(row.execution_id)
                left = give_up_at - loop.time()
                if is_settled(row) or left <= 0 or not await wait(changed, left):
                    return row


def is_settled(row: ExecutionRow) -> bool:
    """Whether nothing happens to it by itself any more."""
    return row.state.is_finished or row.state is ExecutionState.PAUSED or row.blocked_reason is not None


def _surroundings(request: Request) -> Surroundings:
    found: Surroundings = request.app.state.surroundings
    return found


Here = Annotated[Surroundings, Depends(_surroundings)]
