"""The law of crashes, as checks: of a moment at which a process died, and of the course of the one that went on."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.domain.history import CallRecord, History
from flux.engine.body import Body
from flux.engine.calls import Call
from flux.workflow import find_workflow
from support.crashes import ENDS, Course, Histories, Moment, generation_of
from support.simulation import plain, shape_of
from support.world import Effect

_ROLLED_BACK = frozenset({Type.TASK_ROLLBACK_COMPLETED, Type.TASK_ROLLBACK_FAILED})

Place = tuple[str, int, str, str, int]


def place_of(effect: Effect) -> Place:
    """What an effect must not have twice."""
    return effect.execution_id, effect.generation, effect.call_id, effect.part, effect.attempt


def outcome(course: Course) -> Any:
    """The state and the output; of an error its text."""
    failed = course.state is ExecutionState.FAILED
    return course.state, course.output[3] if failed else course.output


def check_went_on(moments: Sequence[Moment], course: Course) -> None:
    """Whatever was recorded stays, what had ended is not done again, and nothing is left undone.

    Args:
        moments: At which processes died, one after the other.
        course: Of the process that went on from the last.
    """
    check_kept(moments[-1].stored, course)
    check_effects(moments, course)
    for execution_id, ended in course.ended.items():
        assert ended.state.is_finished, f"{execution_id} is {ended.state}"
        ends = [event for event in ended.events if event.type in ENDS]
        assert ends == ended.events[-1:], f"{execution_id} ends {len(ends)} times"
        check_dense(ended.events)
        check_nothing_after_an_end(ended.events)
        check_complete(ended.events)


def check_kept(stored: Histories, course: Course) -> None:
    """Every event that was on disk is there byte for byte, unless the execution began anew."""
    for execution_id, events in stored.items():
        now = course.ended[execution_id].events
        if generation_of(now) == generation_of(events):
            assert [raw(event) for event in now[: len(events)]] == [raw(event) for event in events], execution_id


def check_dense(events: Sequence[ExecutionEvent]) -> None:
    """No gap, no turning back of time."""
    assert [event.seq for event in events] == list(range(events[0].seq, events[0].seq + len(events)))
    assert [event.time_us for event in events] == sorted(event.time_us for event in events)


def check_nothing_after_an_end(events: Sequence[ExecutionEvent]) -> None:
    """When a call has ended, nothing happens to it any more, nor to what was called inside it."""
    ends = {id_: r.outcome.seq for id_, r in History(events).calls.items() if r.outcome is not None}
    for event in events:
        parts = event.call_id.split("/")
        around = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        late = [call_id for call_id in around if event.seq > ends.get(call_id, event.seq)]
        assert late == [], f"{event} comes after the end of {late}"


def check_complete(events: Sequence[ExecutionEvent]) -> None:
    """Every call has ended, and every rollback that began, too.

    But for a rollback inside a task that was given up and interrupted: who knew of it is gone.
    """
    calls = History(events).calls
    for call_id, record in calls.items():
        assert record.outcome is not None, f"call {call_id} has not ended"
        types = [event.type for event in record.progress] + [record.outcome.type]
        around = [calls[outer] for outer in calls if call_id.startswith(f"{outer}/")]
        is_lost = any(
            outer.is_rolling_back or (outer.outcome is not None and outer.outcome.type is Type.TASK_CANCELLED)
            for outer in around
        )
        if Type.TASK_ROLLBACK_STARTED in types and not is_lost:
            assert not _ROLLED_BACK.isdisjoint(types), f"the rollback of call {call_id} has not ended"


def check_effects(moments: Sequence[Moment], course: Course) -> None:
    """What had ended before a crash is not done after it, and what was interrupted at most once more for each.

    A task that pauses begins anew whenever its execution is woken.
    """
    ledgers = [moment.ledger for moment in moments] + [course.ledger]
    for moment, after in zip(moments, ledgers[1:], strict=True):
        again = [effect for effect in after if is_settled(moment.stored, effect)]
        assert again == [], f"what had ended is done again: {again}"
    times = Counter(place_of(effect) for ledger in ledgers for effect in ledger)
    for place, count in times.items():
        lives = sum(any(place_of(effect) == place for effect in ledger) for ledger in ledgers)
        bound = max(lives, _claims_of_pausing(course, place))
        assert count <= bound, f"{place} acts {count} times, at most {bound} are right"


def check_same_effects(before: Course, moments: Sequence[Moment], course: Course) -> None:
    """Everything acts that acts without a crash, and nothing else."""
    all_ledgers = [*(moment.ledger for moment in moments), course.ledger]
    assert {place_of(e) for ledger in all_ledgers for e in ledger} == {place_of(e) for e in before.ledger}


def _claims_of_pausing(course: Course, place: Place) -> int:
    """How often a task that pauses may have begun anew."""
    ended, call_id = course.ended[place[0]], place[2]
    return ended.claims if any(e.type is Type.TASK_PAUSED and e.call_id == call_id for e in ended.events) else 0


def is_settled(stored: Histories, effect: Effect) -> bool:
    """Whether the outcome of an attempt is on disk, so that it must not act any more."""
    events = stored.get(effect.execution_id, [])
    if effect.generation != generation_of(events):
        return effect.generation < generation_of(events)
    record = History(events).calls.get(effect.call_id, CallRecord())
    if record.outcome is not None:
        return True
    types = [event.type for event in record.progress]
    match effect.part:
        case "fallback/":
            return Type.TASK_FALLBACK_COMPLETED in types or Type.TASK_FALLBACK_FAILED in types
        case "rollback/":
            return Type.TASK_ROLLBACK_COMPLETED in types or Type.TASK_ROLLBACK_FAILED in types
        case _:
            failed = types.count(Type.TASK_RETRY_FAILED)
            over = {Type.TASK_RETRY_COMPLETED, Type.TASK_FALLBACK_STARTED, Type.TASK_ROLLBACK_STARTED}
            return failed > effect.attempt or not over.isdisjoint(types) or record.is_rolling_back


def answers(course: Course) -> dict[tuple[str, str], Any]:
    """What each call was answered with."""
    found = {}
    for execution_id, ended in course.ended.items():
        for call_id, record in History(ended.events).calls.items():
            if record.started is not None and record.outcome is not None:
                value = plain(record.outcome.value)
                found[execution_id, call_id] = record.started.name, record.outcome.type.value, value
    return found


def facts(course: Course) -> "Counter[str]":
    """Every event with its time, in a form that can be compared.

    What happens in one moment may be in another order, and a task that begins anew reports its progress again.  An
    execution comes to rest before a signal that is sent in the same moment is read, or it does not.
    """
    return Counter(
        repr((execution_id, generation_of(ended.events), *shape_of(event)[1:]))
        for execution_id, ended in course.ended.items()
        for event in ended.events
        if event.type not in {Type.TASK_PROGRESS, Type.WORKFLOW_PAUSED}
    )


def raw(event: ExecutionEvent) -> tuple[Any, ...]:
    """An event, byte for byte."""
    return (event.seq, event.type, event.call_id, event.name, event.data, event.detail_data, event.time_us)


class _Nobody:
    """Carries out nothing."""

    def call_made(self, call: Call) -> None:
        pass

    def call_cancelled(self, call: Call) -> None:
        pass

    def combinator_began(self, call_id: str, name: str, data: bytes, parent: str | None) -> None:
        pass

    def combinator_ended(self, call_id: str, name: str, outcome: Type, data: bytes) -> None:
        pass


def check_replays(course: Course, *, prefixes: bool) -> None:
    """The history of every execution replays without divergence, and so does every prefix of it."""
    for execution_id, ended in course.ended.items():
        for k in range(1 if prefixes else len(ended.events), len(ended.events) + 1):
            events = [event.undecoded() for event in ended.events[:k]]
            replay(ended.workflow, execution_id, events)


def replay(workflow: str, execution_id: str, events: Sequence[ExecutionEvent]) -> None:
    """Replay a history, and do nothing."""
    started = next((event for event in events if event.type is Type.WORKFLOW_STARTED), None)
    if started is None:
        return
    definition = find_workflow(workflow).definition
    context: ExecutionContext[Any] = ExecutionContext(execution_id, workflow, events)
    body = Body(definition, context, History(events), started.time_us, _Nobody())
    body.replay()
    try:
        assert (body.divergence, body.failure) == (None, None), f"after event {events[-1].seq} of {execution_id}"
    finally:
        body.unload()
