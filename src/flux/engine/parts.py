"""What every runner of a process shares."""

from dataclasses import dataclass

from flux.clock import Clock
from flux.engine.lease import Lease
from flux.engine.threads import Threads
from flux.ports import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts that the composition root makes, and two patiences.

    Args:
        cancel_grace_seconds: How long a cancelled call may clean up before the body goes on without it.
        unload_after_seconds: An execution that waits longer than this for a timer is unloaded meanwhile.
        replay_each_step: Drop the body after every step and replay it, to prove that replay is exact (tests).
    """

    store: Store
    clock: Clock
    lease: Lease
    threads: Threads
    cancel_grace_seconds: float = 5.0
    unload_after_seconds: float = 10.0
    replay_each_step: bool = False
