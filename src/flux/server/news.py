"""Tells those who wait that an execution has changed: at once if that happened here, else within a moment.

What other processes write is found by `Store.news`, which costs no query; then everybody looks for themselves.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from flux import telemetry
from flux.errors import StoreError
from flux.ports import Store
from flux.server.service import Service

SECONDS = 0.05


class News:
    """What coroutines of one loop wait for; it looks from the first that waits on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)  # By execution; "" for any.
        self._seen = -1
        self.is_over = False
        self._over: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._detach: Callable[[], None] | None = None
        self._service = Service("the look for news", self._look, seconds=SECONDS)

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._detach = telemetry.attach(self._hear)
        self._service.start()

    def end(self) -> None:
        """Tell who waits that there is nothing more to wait for here: the server is about to stop."""
        self.is_over = True
        self._tell_all()
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def over(self) -> asyncio.Future[None]:
        """What is done when the server is about to stop."""
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
            if self.is_over:
                self._over.set_result(None)
        return self._over

    async def stop(self) -> None:
        """Look no more."""
        self.end()
        if self._detach is not None:
            self._detach()
        await self._service.stop()

    @contextlib.contextmanager
    def about(self, execution_id: str = "") -> Iterator[asyncio.Event]:
        """An event that is set whenever this execution may have changed, or any; clear it, then look.

        It begins before the first look, so that nothing falls between.
        """
        if self._loop is None:
            self._start()
        event, waiting = asyncio.Event(), self._waiting[execution_id]
        waiting.add(event)
        try:
            yield event
        finally:
            waiting.discard(event)
            if not waiting and self._waiting.get(execution_id) is waiting:
                del self._waiting[execution_id]

    def tell(self, execution_id: str) -> None:
        """Say that an execution may have changed."""
        for each in (execution_id, ""):
            for event in self._waiting.get(each, ()):
                event.set()

    def _tell_all(self) -> None:
        for execution_id in list(self._waiting):
            self.tell(execution_id)

    def _hear(self, name: str, fields: dict[str, Any]) -> None:
        if name == "events.appended" and self._waiting and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                self._loop.call_soon_threadsafe(self.tell, fields["execution_id"])

    async def _look(self) -> None:
        try:
            news = self._store.news()
        except StoreError:
            return  # Whether the database is lost is for others to say.
        if news == self._seen or not self._waiting:
            return
        self._seen = news
        self._tell_all()


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for one of these events, and clear it; False if it was not set in time."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    event.clear()
    return True
