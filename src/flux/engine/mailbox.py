"""The signals that a body has received and not taken yet: one queue for each name, on the body's loop."""

import asyncio
from collections.abc import Iterator
from typing import Any

from flux.domain.events import ExecutionEvent


class Mailbox:
    """A queue for each name of a signal, in the order in which they were received."""

    def __init__(self) -> None:
        self._queues: dict[str, asyncio.Queue[ExecutionEvent]] = {}
        self._takers: list[str] = []

    @property
    def awaited(self) -> str | None:
        """The name of the signal that was waited for first, if one is."""
        return self._takers[0] if self._takers else None

    def put(self, event: ExecutionEvent) -> None:
        """Keep a signal for whoever takes the next one of its name."""
        self._queue(event.value["name"]).put_nowait(event)

    async def take(self, name: str) -> Any:
        """Wait for a signal, and return its value; one that came earlier is taken first."""
        queue = self._queue(name)
        self._takers.append(name)
        try:
            event = await queue.get()
        finally:
            self._takers.remove(name)
        return event.value_copy()["value"]

    def left(self) -> Iterator[ExecutionEvent]:
        """Those that nobody took, in the order in which they were received."""
        events = [queue.get_nowait() for queue in self._queues.values() for _ in range(queue.qsize())]
        return iter(sorted(events, key=lambda event: event.seq))

    def _queue(self, name: str) -> "asyncio.Queue[ExecutionEvent]":
        if name not in self._queues:
            self._queues[name] = asyncio.Queue()
        return self._queues[name]
