"""Tasks that are awaited outside any workflow: they just run."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flux import serde
from flux.clock import SystemClock
from flux.domain.definitions import Arguments, TaskDefinition
from flux.domain.events import ExecutionEventType as Type
from flux.engine import launcher
from flux.engine.attempts import Attempts
from flux.engine.surroundings import Failed, Succeeded
from flux.engine.threads import Threads
from flux.ids import new_id

if TYPE_CHECKING:
    from flux.engine.attempt import Attempt


async def run_unrecorded(task: TaskDefinition, named: Mapping[str, Any], instance: Any) -> Any:
    """Call a task outside any workflow: with its retries, fallback and rollback, but nothing is written.

    Raises:
        ExecutionError: It failed, as it would in a body.
    """
    match await _Unrecorded(task, Arguments(named, b"", instance)).run():
        case Succeeded(value):
            return value if task.output_storage is None else task.output_storage.retrieve(value)
        case Failed(data):
            raise serde.decode(data)


class _Unrecorded(Attempts):
    """Writes nothing, and waits for nothing."""

    __slots__ = ("_key",)

    def __init__(self, task: TaskDefinition, arguments: Arguments) -> None:
        super().__init__(task, "", arguments, clock=SystemClock(), threads=_unrecorded_threads)
        self._key = new_id()

    @property
    def execution_id(self) -> str:
        return ""

    @property
    def name(self) -> str:
        return self._task.name

    def idempotency_key(self) -> str:
        return self._key

    def reference_id(self) -> str:
        return f"{self.name}_{self._key}"

    def record(self, type_: Type, value: bytes | None, detail: bytes | None = None) -> None:
        pass

    async def before_acting(self) -> None:
        pass

    def begin(self, part: str) -> None:
        pass

    def end(self, attempt: "Attempt") -> None:
        pass

    def entered(self, attempt: "Attempt | None") -> None:
        pass

    def left(self, attempt: "Attempt | None") -> None:
        pass

    def secrets(self, names: Sequence[str]) -> Mapping[str, Any]:
        return launcher.current().find_secrets(names)

    async def run_in_process(
        self, function: Callable[..., Any], named: Mapping[str, Any], on_start: Callable[[], None] | None
    ) -> Any:
        return await launcher.current().run_in_process(function, named, on_start)


_unrecorded_threads = Threads()


def _forget_threads() -> None:
    """A forked child has none of its parent's threads."""
    global _unrecorded_threads  # noqa: PLW0603 - of this process.
    _unrecorded_threads = Threads()


os.register_at_fork(after_in_child=_forget_threads)
