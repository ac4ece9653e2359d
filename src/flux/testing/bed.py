"""A whole Flux in memory and on virtual time, in place of the real one."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flux.app import App
from flux.domain.execution_context import ExecutionContext
from flux.engine import launcher
from flux.engine.committer import InlineCommitter
from flux.engine.threads import Threads
from flux.settings import Settings
from flux.store.memory import Memory, MemoryStore
from flux.testing.virtual_time import VirtualLoop, VirtualTime

NEVER_SECONDS = 1e9


class Bed:
    """Runs workflows in this thread, in memory; a workflow that sleeps a month ends at once.

    `def` tasks run where they are called.  Tasks that wait for the network or for threads do not go with virtual time:
    put a `fake` in their place.

    Args:
        memory: What an earlier bed left behind, for example when it crashed.
        time: The time of the test; a new one by default.

    Example:
        >>> with Bed().installed() as bed:
        ...     context = reminder.run("ada")
        >>> assert bed.time.elapsed == timedelta(days=30)
    """

    def __init__(self, memory: Memory | None = None, *, time: VirtualTime | None = None, **options: Any) -> None:
        self.time = time or VirtualTime()
        self.store = MemoryStore(memory)
        self.app = App(
            Settings(database=Path("no-file"), lease_seconds=NEVER_SECONDS),
            store=self.store,
            clock=self.time,
            committer=InlineCommitter(self.store),
            block_on=self.block_on,
            threads=_InlineThreads(),
            **{"news_seconds": NEVER_SECONDS, "unload_after_seconds": NEVER_SECONDS, **options},
        )

    def block_on(self, work: Coroutine[Any, Any, ExecutionContext[Any]]) -> ExecutionContext[Any]:
        """Run something to its end, on virtual time."""
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(self.time)) as runner:
            return runner.run(work)

    @contextmanager
    def installed(self) -> "Iterator[Bed]":
        """Have `workflow.run()` and the like use this one meanwhile."""
        before = launcher.install(lambda: self.app)
        try:
            yield self
        finally:
            launcher.install(before)
            self.app.close()


class _InlineThreads(Threads):
    """`def` tasks run at once, where they are called."""

    async def run(self, function: Callable[[], Any], on_start: Callable[[], None] | None = None) -> Any:
        if on_start is not None:
            on_start()
        return contextvars.copy_context().run(function)
