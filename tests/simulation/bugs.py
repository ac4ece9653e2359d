"""Engines and stores with a bug, each of which a rule must find; nothing of this is in the product.

Each is a function that plants the bug for as long as a test runs; its name says what is wrong.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState, Transition
from flux.engine import children, engine, inbox, journal, lease, open_calls, runner
from flux.engine.calls import ChildRequest
from flux.ids import child_id
from flux.ports import Append, AppendResult, Message, MessageKind
from flux.store.memory import MemoryStore
from simulation.committer import SimulatedCommitter
from simulation.process import Process

Patch = pytest.MonkeyPatch
RUNNING = ExecutionState.RUNNING


# -- the store


def nobody_checks_the_fence(patch: Patch) -> None:
    append = MemoryStore._append

    def unfenced(self: MemoryStore, each: Append) -> AppendResult:
        found = self.memory.executions.get(each.execution_id)
        is_running = found is not None and each.create is None and found.row.state is RUNNING
        return append(self, dataclasses.replace(each, fence=found.row.fence) if found and is_running else each)

    patch.setattr(MemoryStore, "_append", unfenced)


def a_claim_makes_no_new_fence(patch: Patch) -> None:
    claim = MemoryStore._claim

    def unraised(self: MemoryStore, found: Any, *claimed: Any) -> Any:
        if found.row.fence:
            found.set(fence=found.row.fence - 1)
        return claim(self, found, *claimed)

    patch.setattr(MemoryStore, "_claim", unraised)


def a_lost_answer_is_followed_by_a_blind_retry(patch: Patch) -> None:
    append = MemoryStore._append

    def blind(self: MemoryStore, each: Append) -> AppendResult:
        found = self.memory.executions.get(each.execution_id)
        if found is not None and (found.row.fence, found.row.state) == (each.fence, RUNNING) and each.create is None:
            shift = found.row.last_seq - each.expected_seq
            events = [_moved(event, shift) for event in each.events]
            each = dataclasses.replace(each, expected_seq=found.row.last_seq, events=events)
        return append(self, each)

    patch.setattr(MemoryStore, "_append", blind)


def _moved(event: ExecutionEvent, shift: int) -> ExecutionEvent:
    moved = event.undecoded()
    moved.seq += shift
    return moved


def an_execution_is_parked_over_its_inbox(patch: Patch) -> None:
    has_news = MemoryStore._has_news

    def deaf(self: MemoryStore, found: Any, append: Append) -> bool:
        return append.state.is_finished and has_news(self, found, append)

    patch.setattr(MemoryStore, "_has_news", deaf)


def an_execution_ends_over_its_inbox(patch: Patch) -> None:
    has_news = MemoryStore._has_news

    def deaf(self: MemoryStore, found: Any, append: Append) -> bool:
        return not append.state.is_finished and has_news(self, found, append)

    patch.setattr(MemoryStore, "_has_news", deaf)


def a_pause_can_be_answered_twice(patch: Patch) -> None:
    resume = MemoryStore.resume

    def open_for_ever(self: MemoryStore, execution_id: str, **options: Any) -> Any:
        pause = resume(self, execution_id, **options)
        if pause is not None:
            self.memory.executions[execution_id].pauses[pause.call_id] = pause, False
        return pause

    patch.setattr(MemoryStore, "resume", open_for_ever)


def a_message_leaves_the_inbox_one_commit_late(patch: Patch) -> None:
    append = MemoryStore._append
    late: dict[Any, Sequence[int]] = {}

    def delayed(self: MemoryStore, each: Append) -> AppendResult:
        now, before = each.consumed, late.pop((self.memory, each.execution_id, each.fence), ())
        is_last = each.state is not RUNNING
        result = append(self, dataclasses.replace(each, consumed=[*before, *now] if is_last else before))
        if result is AppendResult.STORED and not is_last:
            late[self.memory, each.execution_id, each.fence] = now
        return result

    patch.setattr(MemoryStore, "_append", delayed)


def a_repeated_signal_is_another_signal(patch: Patch) -> None:
    send = MemoryStore.send

    def forgetful(self: MemoryStore, execution_id: str, *, client_id: str | None = None, **options: Any) -> bool:
        return send(self, execution_id, client_id=None, **options)

    patch.setattr(MemoryStore, "send", forgetful)


def a_rescue_forgets_who_was_to_be_cancelled(patch: Patch) -> None:
    rescue = MemoryStore.rescue

    def forgetful(self: MemoryStore, *, now: int) -> int:
        rescued = rescue(self, now=now)
        for found in self.memory.executions.values():
            if rescued and found.row.state is ExecutionState.SCHEDULED:
                for id_ in [id_ for id_, each in found.inbox.items() if each.kind is MessageKind.CANCEL]:
                    del found.inbox[id_]
        return rescued

    patch.setattr(MemoryStore, "rescue", forgetful)


def the_living_are_rescued(patch: Patch) -> None:
    rescue = MemoryStore.rescue

    def hasty(self: MemoryStore, *, now: int) -> int:
        return rescue(self, now=now + 1_500_000)

    patch.setattr(MemoryStore, "rescue", hasty)


def who_comes_second_with_an_id_creates_it_anew(patch: Patch) -> None:
    create = MemoryStore._create

    def over(self: MemoryStore, append: Append, new: Any) -> AppendResult:
        self.memory.executions.pop(append.execution_id, None)
        return create(self, append, new)

    patch.setattr(MemoryStore, "_create", over)


def a_crash_drops_the_last_event(patch: Patch) -> None:
    kill = Process.kill

    def torn(self: Process, why: str) -> None:
        for found in self._inner.memory.executions.values():
            if found.row.worker in self.workers and found.row.state is RUNNING and len(found.events) > 2:
                del found.events[-1], found.fences[-1]
                found.set(last_seq=found.row.last_seq - 1)
        kill(self, why)

    patch.setattr(Process, "kill", torn)


# -- the journal


def nothing_waits_for_the_disk(patch: Patch) -> None:
    patch.setattr(journal.Log, "when_durable", lambda self, callback: self._journal.soon(callback))


def a_commit_is_acknowledged_before_it_is_sent(patch: Patch) -> None:
    submit = SimulatedCommitter.submit

    def hasty(self: SimulatedCommitter, appends: Sequence[Append], done: Any) -> None:
        submit(self, appends, lambda results: None)
        done([AppendResult.STORED] * len(appends))

    patch.setattr(SimulatedCommitter, "submit", hasty)


def whoever_was_superseded_goes_on(patch: Patch) -> None:
    answered = journal.Log.answered

    def deaf(self: journal.Log, append: Append, result: AppendResult) -> None:
        answered(self, append, AppendResult.STORED if result is AppendResult.STALE else result)

    patch.setattr(journal.Log, "answered", deaf)


def answers_are_given_in_another_order(patch: Patch) -> None:
    answer = journal.Journal._answer

    def reversed_(self: journal.Journal, batch: Any, results: Any) -> None:
        answer(self, batch, list(reversed(results)) if isinstance(results, list) else results)

    patch.setattr(journal.Journal, "_answer", reversed_)


def an_end_is_not_taken_back(patch: Patch) -> None:
    unpark = journal.Log._unpark

    def stubborn(self: journal.Log, append: Append) -> None:
        if append.state.is_finished:
            append.state = RUNNING
        unpark(self, append)

    patch.setattr(journal.Log, "_unpark", stubborn)


def an_event_has_the_time_of_the_clock(patch: Patch) -> None:
    record = journal.Log.record

    def naive(self: journal.Log, *event: Any) -> ExecutionEvent:
        self._time = 0
        return record(self, *event)

    patch.setattr(journal.Log, "record", naive)


def an_outcome_is_recorded_twice_after_a_rescue(patch: Patch) -> None:
    record = journal.Log.record

    def twice(self: journal.Log, type_: Type, *event: Any) -> ExecutionEvent:
        if type_ is Type.TASK_COMPLETED and self._fence > 1:
            record(self, type_, *event)
        return record(self, type_, *event)

    patch.setattr(journal.Log, "record", twice)


# -- the lease


def the_lease_is_never_checked(patch: Patch) -> None:
    patch.setattr(lease.Lease, "is_trusted", lambda self, **_: True)


def what_is_owed_is_not_given_back(patch: Patch) -> None:
    patch.setattr(engine.Engine, "give_back_owed", lambda self: None)


# -- the runner


def timers_are_lost_at_a_rescue(patch: Patch) -> None:
    arm = runner.Runner._arm_timer

    def forgetful(self: runner.Runner) -> None:
        if self._fence == 1:
            arm(self)

    patch.setattr(runner.Runner, "_arm_timer", forgetful)


def two_outcomes_are_delivered_in_one_step(patch: Patch) -> None:
    def deliver(self: runner.Runner, event: ExecutionEvent) -> None:
        body = self._body
        if body is None:
            return
        drain, body._drain = body._drain, lambda: None  # type: ignore[method-assign]
        body.deliver(event)
        body._drain = drain  # type: ignore[method-assign]
        self._host.call_soon(_drain, self, body)

    patch.setattr(runner.Runner, "deliver", deliver)


def _drain(self: runner.Runner, body: Any) -> None:
    if self._body is body and self.is_live():
        body._drain()
        self._step_ended()


def the_newest_message_is_read_first(patch: Patch) -> None:
    unread = inbox.Inbox.unread
    patch.setattr(inbox.Inbox, "unread", lambda self: list(reversed(unread(self))))


def an_interrupted_rollback_is_forgotten(patch: Patch) -> None:
    is_to_be_undone = open_calls.OpenCalls._is_to_be_undone

    def forgetful(self: Any, call: Any, task: Any) -> bool:
        has_begun = any(e.type is Type.TASK_ROLLBACK_STARTED for e in self.history.calls[call.id].progress)
        return not has_begun and is_to_be_undone(self, call, task)

    patch.setattr(open_calls.OpenCalls, "_is_to_be_undone", forgetful)


# -- children


def every_owner_has_children_of_its_own(patch: Patch) -> None:
    made = open_calls.OpenCalls.made

    def id_of(self: children.Children, call_id: str) -> str:
        execution_id, fence = self._parent.execution_id, self._parent._fence  # type: ignore[attr-defined]
        return child_id(execution_id, self.generation, f"{call_id}, fence {fence}")

    def made_again(self: Any, call: Any) -> None:
        if isinstance(call.target, ChildRequest) and call.id in self.history.calls:
            self._log.child_made(self._children.creation_of(call, call.target, self._parts.clock.now()))
            self._log._position += 1  # It waits until the child is there.
            self._log._touch()
        made(self, call)

    patch.setattr(children.Children, "id_of", id_of)
    patch.setattr(open_calls.OpenCalls, "made", made_again)


def a_child_tells_its_parent_before_its_commit(patch: Patch) -> None:
    runners: dict[Any, Any] = {}
    begin, park = runner.Runner.begin, runner.Runner._park

    def registered(self: Any, *told: Any) -> None:
        runners[self._host, self.execution_id] = self
        begin(self, *told)

    def early(self: Any, transition: Transition, *args: Any, **options: Any) -> None:
        row = self._parts.store.get(self.execution_id)
        parent = runners.get((self._host, row.parent_id)) if row is not None else None
        if transition is Transition.COMPLETE and parent is not None:
            last = self._history.events[-1]
            told = {"call_id": row.parent_call, "name": last.type.value, "data": last.data, "sent_at": last.time_us}
            parent.calls.child_ended(Message(id=-1, kind=MessageKind.CHILD, **told))
        park(self, transition, *args, **options)

    patch.setattr(runner.Runner, "begin", registered)
    patch.setattr(runner.Runner, "_park", early)


# Each, and the rule that finds it.
BUGS: dict[Callable[[Patch], None], str] = {
    nobody_checks_the_fence: "owner",
    a_claim_makes_no_new_fence: "owner",
    a_lost_answer_is_followed_by_a_blind_retry: "once",
    an_execution_is_parked_over_its_inbox: "liveness",
    an_execution_ends_over_its_inbox: "acks",
    a_pause_can_be_answered_twice: "once",
    a_message_leaves_the_inbox_one_commit_late: "inbox",
    a_repeated_signal_is_another_signal: "acks",
    a_rescue_forgets_who_was_to_be_cancelled: "inbox",
    the_living_are_rescued: "rescue",
    who_comes_second_with_an_id_creates_it_anew: "owner",
    a_crash_drops_the_last_event: "kept",
    nothing_waits_for_the_disk: "cause",
    a_commit_is_acknowledged_before_it_is_sent: "cause",
    whoever_was_superseded_goes_on: "cause",
    answers_are_given_in_another_order: "liveness",
    an_end_is_not_taken_back: "ended",
    an_event_has_the_time_of_the_clock: "dense",
    an_outcome_is_recorded_twice_after_a_rescue: "once",
    the_lease_is_never_checked: "trust",
    what_is_owed_is_not_given_back: "liveness",
    timers_are_lost_at_a_rescue: "liveness",
    two_outcomes_are_delivered_in_one_step: "replay",
    the_newest_message_is_read_first: "acks",
    an_interrupted_rollback_is_forgotten: "once",
    every_owner_has_children_of_its_own: "child",
    a_child_tells_its_parent_before_its_commit: "child",
}
