"""The two places where stdlib asyncio orders by memory address, made to order by creation in bodies.

Outside a body the originals answer, unchanged; `remove` undoes both.
"""

import asyncio
import functools
from asyncio import events as asyncio_events
from collections.abc import Iterable
from typing import Any

from flux.engine.loop import BodyLoop

_as_completed = asyncio.as_completed
_Gathering: Any = asyncio.tasks._GatheringFuture  # type: ignore[attr-defined]


@functools.wraps(_as_completed)
def _ordered_as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Any:
    """The original makes `set(coroutines)`, in order of address; give it tasks, in the order given."""
    loop = asyncio_events._get_running_loop()
    if isinstance(loop, BodyLoop) and not asyncio.isfuture(fs) and not asyncio.iscoroutine(fs):
        fs = [asyncio.ensure_future(awaitable, loop=loop) for awaitable in dict.fromkeys(fs)]
    return _as_completed(fs, timeout=timeout)


def _gathering_hash(self: Any) -> int:
    """What `gather` returns is made inside asyncio, past `create_future`: number it when it is first hashed."""
    loop = self.get_loop()
    if not isinstance(loop, BodyLoop):
        return object.__hash__(self)
    if "_number" not in self.__dict__:
        self._number = loop.next_number()
    return int(self._number)


def install() -> None:
    """Put the patches in place; harmless when repeated."""
    asyncio.as_completed = asyncio.tasks.as_completed = _ordered_as_completed
    _Gathering.__hash__ = _gathering_hash


def remove() -> None:
    """Put the originals back."""
    asyncio.as_completed = asyncio.tasks.as_completed = _as_completed
    if "__hash__" in _Gathering.__dict__:
        del _Gathering.__hash__
