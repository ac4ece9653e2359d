"""The places where asyncio, and anyio on it, order by memory address, made to order by creation in bodies.

Elsewhere the originals answer, unchanged; `remove` undoes all of it.
"""

import asyncio
import functools
import importlib
import sys
from asyncio import events as asyncio_events
from collections.abc import Callable, Iterable
from typing import Any

from flux.engine import lineage
from flux.engine.loop import BodyLoop

_as_completed = asyncio.as_completed
_Gathering: Any = asyncio.tasks._GatheringFuture  # type: ignore[attr-defined]
_undo_anyio: list[Callable[[], None]] = []


def install() -> None:
    """Put the patches in place; harmless when repeated."""
    asyncio.as_completed = asyncio.tasks.as_completed = _ordered_as_completed
    _Gathering.__hash__ = _gathering_hash
    if "anyio" in sys.modules and not _undo_anyio:
        backend = importlib.import_module("anyio._backends._asyncio")  # Anyio itself loads it at its first use only.
        _patch_anyio(backend.CancelScope)


def remove() -> None:
    """Put the originals back."""
    asyncio.as_completed = asyncio.tasks.as_completed = _as_completed
    if "__hash__" in _Gathering.__dict__:
        del _Gathering.__hash__
    while _undo_anyio:
        _undo_anyio.pop()()


@functools.wraps(_as_completed)
def _ordered_as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Any:
    """The original makes `set(coroutines)`, in order of address; give it tasks, in the order given."""
    loop = asyncio_events._get_running_loop()
    is_followed = isinstance(loop, BodyLoop) or lineage.current() is not None
    if is_followed and not asyncio.isfuture(fs) and not asyncio.iscoroutine(fs):
        fs = [asyncio.ensure_future(awaitable, loop=loop) for awaitable in dict.fromkeys(fs)]
    return _as_completed(fs, timeout=timeout)


def _gathering_hash(self: Any) -> int:
    """What `gather` returns is made inside asyncio, past `create_future`: number it when it is first hashed."""
    loop = self.get_loop()
    if not isinstance(loop, BodyLoop):
        return object.__hash__(self)
    try:
        return int(self._number)
    except AttributeError:
        self._number = loop.next_number()
    return int(self._number)


def _patch_anyio(scope_class: Any) -> None:
    """A cancelled scope asks again in every turn of the loop, and walks its child scopes in order of address."""
    init, deliver = scope_class.__init__, scope_class._deliver_cancellation

    @functools.wraps(init)
    def ordered_init(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        if isinstance(asyncio_events._get_running_loop(), BodyLoop):
            self._child_scopes = _OrderedSet()

    @functools.wraps(deliver)
    def patient_deliver(self: Any, origin: Any) -> bool:
        should_retry: bool = deliver(self, origin)
        loop = asyncio_events._get_running_loop()
        if should_retry and origin is self and isinstance(loop, BodyLoop):
            loop.poll_later(self._cancel_handle)
        return should_retry

    def undo() -> None:
        scope_class.__init__, scope_class._deliver_cancellation = init, deliver

    scope_class.__init__, scope_class._deliver_cancellation = ordered_init, patient_deliver
    _undo_anyio.append(undo)


class _OrderedSet(dict[Any, None]):
    """As much of a set as a scope asks of its children, in order of insertion."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]

    def discard(self, item: Any) -> None:
        self.pop(item, None)
