"""What every runner of a process shares."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flux.clock import Clock
from flux.engine.lease import Lease
from flux.engine.threads import Threads
from flux.ports import Store

if TYPE_CHECKING:
    from flux.engine.processes import Processes

Secrets = Callable[[Sequence[str]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts that the composition root makes, and a few patiences.

    Args:
        secrets: Gives secrets by their names, or raises `SecretNotFoundError`.
        cancel_grace_seconds: How long a cancelled call may clean up before the body goes on without it.
        unload_after_seconds: An execution that waits longer than this for a timer is unloaded meanwhile.
        history_limit_events: A longer history fails its execution.
        news_seconds: How often to look for messages.
        guard_bodies: Refuse what a body would do to files, sockets and processes.
        replay_each_step: Drop the body after every step and replay it, to prove that replay is exact (tests).
    """

    store: Store
    clock: Clock
    lease: Lease
    threads: Threads
    processes: "Processes"
    secrets: Secrets
    cancel_grace_seconds: float = 5.0
    unload_after_seconds: float = 10.0
    history_limit_events: int = 500_000
    news_seconds: float = 0.05
    guard_bodies: bool = True
    replay_each_step: bool = False
