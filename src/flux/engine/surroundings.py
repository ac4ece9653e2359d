"""What the attempts of a call need of the rest of the engine, and how they can end."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flux.domain.events import ExecutionEventType as Type

if TYPE_CHECKING:
    from flux.engine.attempt import Attempt


class Surroundings(ABC):
    """What the attempts of one call need of the rest."""

    __slots__ = ()

    @property
    @abstractmethod
    def execution_id(self) -> str:
        """Of the execution; empty outside a workflow."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the call."""

    @abstractmethod
    def idempotency_key(self) -> str:
        """The same in every attempt and after every crash, and of no other call."""

    @abstractmethod
    def reference_id(self) -> str:
        """By which an output storage knows the result."""

    @abstractmethod
    def record(self, type_: Type, value: bytes | None, detail: bytes | None = None) -> None:
        """Add an event about this call."""

    @abstractmethod
    async def before_acting(self) -> None:
        """Wait until this attempt may act on the world: its cause is on disk, and the lease is trusted."""

    @abstractmethod
    def begin(self, part: str) -> "Attempt | None":
        """An attempt begins: of the task itself (""), of its "fallback/" or of its "rollback/"."""

    @abstractmethod
    def end(self, attempt: "Attempt") -> None:
        """It has ended."""

    @abstractmethod
    def entered(self, attempt: "Attempt | None") -> None:
        """User code of the attempt begins, in this asyncio task or on a thread that it waits for."""

    @abstractmethod
    def left(self, attempt: "Attempt | None") -> None:
        """It has ended."""

    @abstractmethod
    def secrets(self, names: Sequence[str]) -> Mapping[str, Any]:
        """The secrets of these names.

        Raises:
            SecretNotFoundError: One is missing.
        """

    @abstractmethod
    async def run_in_process(
        self, function: Callable[..., Any], named: Mapping[str, Any], on_start: Callable[[], None] | None
    ) -> Any:
        """Call a function in a child process, which is killed when this is cancelled."""


@dataclass(slots=True, eq=False)
class Succeeded:
    """The outcome of a call that gave a value."""

    value: Any
    data: bytes
    may_be_cached: bool = True  # Not if an earlier call gave it, or a fallback.


@dataclass(slots=True, eq=False)
class Failed:
    """The outcome of a call that gave an error, encoded."""

    data: bytes


@dataclass(slots=True, eq=False)
class RolledBack:
    """The outcome of a call that was cancelled and undone: the type and the data of its last event."""

    type: Type
    data: bytes
