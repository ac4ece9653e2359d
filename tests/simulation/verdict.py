"""What must hold when everything has ended."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flux import serde
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.store.memory import Memory
from simulation.checker import Seen
from simulation.people import MURMUR, Client
from simulation.plan import Plan
from simulation.rules import Violation
from simulation.world import Key
from support.law import check_complete
from support.programs import gives_up
from support.simulation import plain


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a universe.

    Args:
        ends: State and output, by execution.
        effects: What has acted.
    """

    ends: dict[str, tuple[ExecutionState, Any]]
    effects: set[Key]


def end_of(memory: Memory, execution_id: str) -> tuple[ExecutionState, Any]:
    """How an execution has ended, in a form that can be compared."""
    found = memory.executions[execution_id]
    data = found.events[-1].data
    return found.row.state, plain(serde.decode(data)) if data is not None else None


def check_all_ended(memory: Memory) -> None:
    """Every call has ended, and so has every rollback.

    Raises:
        Violation: One has not.
    """
    for found in memory.executions.values():
        try:
            check_complete(found.events)
        except AssertionError as error:
            raise Violation("once", f"{found.row.execution_id}: {error}") from error


def check_acknowledged(client: Client, seen: Mapping[str, Seen]) -> None:
    """What a client was told has arrived.

    Raises:
        Violation: It has not; or twice, or in another order.
    """
    for execution_id, sent in client.signals.items():
        generations = [[serde.decode(data)["name"] for data in signals] for signals in seen[execution_id].signals]
        for names in generations:
            murmurs = [name for name in names if name.startswith(MURMUR)]
            is_more = any(count > client.asked[execution_id, name] for name, count in Counter(names).items())
            if is_more or murmurs != sorted(murmurs):
                raise Violation("acks", f"{execution_id} has received {names}")
        lost = set(sent).difference(*generations)
        if lost:
            raise Violation("acks", f"{execution_id} has not received {lost}, but {generations}")
    for execution_id in client.cancelled:
        was_told = seen[execution_id].counts[Type.WORKFLOW_CANCELLING, ""] > 0
        if was_told and seen[execution_id].row.state is not ExecutionState.CANCELLED:
            raise Violation("acks", f"{execution_id} was to be cancelled, and is {seen[execution_id].row.state}")


def compare(plan: Plan, result: Result, twin: Result) -> None:
    """Both have come to the same, except for what was cancelled.

    Raises:
        Violation: They have not.
    """
    for execution_id, end in result.ends.items():
        was_cancelled = execution_id in plan.cancelled and end[0] is ExecutionState.CANCELLED
        if not was_cancelled and end != twin.ends[execution_id]:
            raise Violation("output", f"{execution_id} ends as {end}, and its twin as {twin.ends[execution_id]}")
    if plan.cancelled or any(gives_up(request.program) for request in plan.requests):
        return  # What is given up may or may not have begun.
    if result.effects != twin.effects:
        more, less = result.effects - twin.effects, twin.effects - result.effects
        raise Violation("effects", f"the twin has not done {more}; it alone has done {less}")
