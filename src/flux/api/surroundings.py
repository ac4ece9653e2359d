"""What the routes work with."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from flux.domain.execution import ExecutionState
from flux.ports import ExecutionRow
from flux.secret_managers import SecretManager
from flux.server.control import Control, Start
from flux.server.news import News, wait
from flux.worker.worker import NewRun, Worker


@dataclass(frozen=True, slots=True)
class Surroundings:
    """One for each application.

    Args:
        control: The use cases.
        news: Tells of changes.
        worker: On the loop of the application, if there is one.
        secrets: What keeps secrets.
    """

    control: Control
    news: News
    worker: Worker | None = None
    secrets: Callable[[], SecretManager] | None = None

    def work(self) -> None:
        """Tell the worker of this process, if there is one, that something may be due."""
        if self.worker is not None:
            self.worker.wake()

    async def run(self, start: Start) -> NewRun | None:
        """Let the worker of this process run a new execution at once; None, and nothing happens, if it cannot."""
        if self.worker is None or self.control.is_known(start):
            return None
        return await self.worker.run_new(start.execution_id, start.create, start.input_data)

    async def until_settled(self, row: ExecutionRow, seconds: float) -> ExecutionRow:
        """The execution, when it is finished or paused, when so much time has passed, or when this server stops.

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
                is_over = left <= 0 or self.news.is_over
                if is_settled(row) or is_over or not await wait(changed, left):
                    return row


def is_settled(row: ExecutionRow) -> bool:
    """Whether nothing happens to it by itself any more."""
    return row.state.is_finished or row.state is ExecutionState.PAUSED or row.blocked_reason is not None


async def _surroundings(request: Request) -> Surroundings:  # FastAPI calls what is not async on a thread.
    found: Surroundings = request.app.state.surroundings
    return found


Here = Annotated[Surroundings, Depends(_surroundings)]
