"""Looks at the database after every write, and at every task that acts."""

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import POISON, ExecutionState
from flux.domain.history import DECIDED_BY_BODY, ROLLS_BACK
from flux.ids import child_id
from flux.ports import Append, ExecutionRow, Message, MessageKind, Pause
from flux.store.memory import Memory
from simulation.universe import Universe
from simulation.world import Key, key_of
from support.world import Effect

if TYPE_CHECKING:
    from simulation.process import Process

ENDS = {
    Type.WORKFLOW_COMPLETED: ExecutionState.COMPLETED,
    Type.WORKFLOW_FAILED: ExecutionState.FAILED,
    Type.WORKFLOW_CANCELLED: ExecutionState.CANCELLED,
}
OUTCOMES = frozenset({Type.TASK_COMPLETED, Type.TASK_FAILED, Type.TASK_CANCELLED})
UNDONE = frozenset({Type.TASK_ROLLBACK_COMPLETED, Type.TASK_ROLLBACK_FAILED})
CLAIMS = frozenset({"claim", "claim_ready"})


@dataclass(slots=True, eq=False)
class Seen:
    """An execution as it was after the last write.

    Attributes:
        generation: How often it began anew, plus one.
        counts: Of events, by (type, call id), in this generation.
        ended: The calls that have an outcome.
        undoing: The calls that were cancelled and are rolled back: they have ended when that has.
        open: Pauses that may be answered.
        pauses: All that this history has opened.
    """

    row: ExecutionRow
    events: list[ExecutionEvent] = field(default_factory=list)
    inbox: dict[int, Message] = field(default_factory=dict)
    generation: int = 1
    counts: Counter[tuple[Type, str]] = field(default_factory=Counter)
    ended: set[str] = field(default_factory=set)
    undoing: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    pauses: set[str] = field(default_factory=set)
    signals: list[list[bytes]] = field(default_factory=lambda: [[]])  # In each generation.

    def begin_anew(self) -> None:
        """A fresh history begins."""
        self.generation += 1
        self.events = []
        for each in (self.counts, self.ended, self.undoing, self.open, self.pauses):
            each.clear()
        self.signals.append([])


class Checker:
    """Holds the rules that can be seen while a universe runs.

    Args:
        memory: The database, as it is.
    """

    def __init__(self, universe: Universe, memory: Memory) -> None:
        self._universe, self._memory = universe, memory
        self.seen: dict[str, Seen] = {}
        self.effects: set[Key] = set()
        self._children: set[tuple[str, int, str]] = set()
        self._workers: dict[str, int] = {}
        self._causes: Counter[tuple[str, int, str, Type]] = Counter()
        self._acted: set[tuple[Effect, int]] = set()

    # -- writes

    def written(self, process: "Process", name: str, args: Any, kwargs: Any, result: Any) -> None:
        """Look at what a write has changed."""
        if name == "register_worker":
            process.workers.add(args[0])
        for execution_id in self.seen.keys() - self._memory.executions.keys():
            self._breach("kept", f"{name} loses {execution_id}")
        appends: Mapping[str, Append] = {each.execution_id: each for each in args[0]} if name == "append" else {}
        for execution_id, found in tuple(self._memory.executions.items()):
            seen = self.seen.get(execution_id)
            if seen is None:
                seen = self.seen[execution_id] = Seen(found.row)
                self._check_birth(found.row)
                self._check_events(seen, found.events, found.fences)
            elif found.row is not seen.row:
                self._check_row(process, name, (*args, *kwargs.values()), seen, found.row)
                self._check_history(process, name, seen, found.row, found.events, found.fences)
            if name == "claim" and result is not None and execution_id == args[0] and found.row.fence == seen.row.fence:
                self._breach("owner", f"a claim makes no new owner of {found.row}")
            self._check_inbox(process, name, appends.get(execution_id), seen, found.inbox)
            seen.row = found.row
        for append in appends.values():
            self._note_pauses(append)
        if name == "resume" and result is not None:
            self._check_answer(args[0], result)
        self._workers = dict(self._memory.workers)

    def _check_birth(self, row: ExecutionRow) -> None:
        if row.parent_id is None or row.parent_call is None:
            return
        parent = self.seen[row.parent_id]
        call = row.parent_id, parent.generation, row.parent_call
        if call in self._children:
            self._breach("child", f"the call {call} has a second child: {row}")
        self._children.add(call)

    def _check_row(self, process: "Process", name: str, args: Any, seen: Seen, row: ExecutionRow) -> None:
        old = seen.row
        if old.finished_at is not None:
            self._breach("ended", f"{name} changes {old} to {row}")
        if row.fence != old.fence or (row.worker or old.worker) != (old.worker or row.worker):
            is_claim = name in CLAIMS and row.fence == old.fence + 1 and row.worker in process.workers
            if not is_claim or old.state is not ExecutionState.SCHEDULED:
                self._breach("owner", f"{name} of {process.name} makes {row} of {old}")
        if row.blocked_reason not in {None, POISON}:  # Who dies so often is taken for poisoned; a person asks again.
            self._breach("replay", f"{row.execution_id} is blocked: {row.blocked_reason}")
        if name == "rescue" and old.state is ExecutionState.RUNNING:
            expires_at = self._workers.get(old.worker or "", 0)
            if expires_at > args[0] and old.worker in self._memory.alive:
                self._breach("rescue", f"{old.worker} is alive, and its lease expires at {expires_at}: {old}")

    def _check_history(
        self,
        process: "Process",
        name: str,
        seen: Seen,
        row: ExecutionRow,
        events: Sequence[ExecutionEvent],
        fences: Sequence[int],
    ) -> None:
        old = seen.events
        if row.first_seq != seen.row.first_seq:
            if row.first_seq != seen.row.last_seq + 1:
                self._breach("kept", f"the fresh history of {row} does not begin after {seen.row.last_seq}")
            seen.begin_anew()
            old = seen.events
        if len(events) < len(old) or not all(map(operator.is_, old, events)):
            self._breach("kept", f"{name} changes what was stored of {row.execution_id}")
        if len(events) > len(old):
            if name != "append" or seen.row.worker not in process.workers:
                self._breach("owner", f"{process.name} appends to what {seen.row.worker} owns: {row}")
            if any(fence != seen.row.fence for fence in fences[len(old) :]):
                self._breach("owner", f"events of fences {fences} under {seen.row.fence}: {row}")
            self._check_events(seen, events, fences, row)
        is_finished = row.finished_at is not None
        if is_finished and (not events or ENDS.get(events[-1].type) is not row.state):
            self._breach("ended", f"{row} does not end with its end")

    def _check_events(
        self,
        seen: Seen,
        events: Sequence[ExecutionEvent],
        fences: Sequence[int],
        row: ExecutionRow | None = None,
    ) -> None:
        """Look at the events that were not there before."""
        row = row or seen.row
        if len(fences) != len(events) or row.last_seq != row.first_seq + len(events) - 1:
            self._breach("dense", f"{len(events)} events, {len(fences)} fences: {row}")
        for event in events[len(seen.events) :]:
            last = seen.events[-1] if seen.events else None
            if event.seq != row.first_seq + len(seen.events) or (last and event.time_us < last.time_us):
                self._breach("dense", f"{event} comes after {last}")
            if last is not None and last.type in ENDS:
                self._breach("ended", f"{event} comes after {last}")
            self._check_event(seen, event)
            seen.events.append(event)

    def _check_event(self, seen: Seen, event: ExecutionEvent) -> None:
        execution_id, call_id = event.execution_id, event.call_id
        counts = seen.counts
        counts[event.type, call_id] += 1
        self._causes[execution_id, seen.generation, call_id, event.type] += 1
        is_second = counts[event.type, call_id] > 1
        if event.detail_data == ROLLS_BACK:
            seen.undoing.add(call_id)
        if (event.type in OUTCOMES and event.detail_data != ROLLS_BACK) or (
            event.type in UNDONE and call_id in seen.undoing
        ):
            if call_id in seen.ended:
                self._breach("once", f"the outcome {event} is a second one")
            if not counts[Type.TASK_STARTED, call_id]:
                self._breach("once", f"{event} ends what has not begun")
            seen.ended.add(call_id)
            self._check_child(seen, event)
        elif is_second and event.type in {Type.TASK_STARTED, Type.TIMER_FIRED, Type.WORKFLOW_CANCELLING}:
            self._breach("once", f"{event} is there already")
        elif event.type is Type.TASK_RESUMED and counts[Type.TASK_RESUMED, call_id] > counts[Type.TASK_PAUSED, call_id]:
            self._breach("once", f"{event} answers no pause")
        elif event.type is Type.WORKFLOW_SIGNALLED:
            seen.signals[-1].append(event.data or b"")

    def _check_child(self, seen: Seen, event: ExecutionEvent) -> None:
        if event.detail_data == DECIDED_BY_BODY:
            return
        child = self._memory.executions.get(child_id(event.execution_id, seen.generation, event.call_id))
        if child is not None and child.row.finished_at is None:
            self._breach("child", f"{event} comes before the end of its child {child.row}")

    def _check_inbox(
        self, process: "Process", name: str, append: Append | None, seen: Seen, inbox: Mapping[int, Message]
    ) -> None:
        gone = [message for id_, message in seen.inbox.items() if id_ not in inbox]
        seen.inbox = dict(inbox)
        if not gone:
            return
        consumed = set(append.consumed) if append is not None else set()
        if any(message.id not in consumed for message in gone) or seen.row.worker not in process.workers:
            self._breach("inbox", f"{name} of {process.name} removes {gone} of {seen.row}")
        told = Counter(event.type for event in append.events) if append is not None else Counter[Type]()
        # A resume of a pause that was dropped with its history has nothing to tell.
        kinds = Counter(each.kind for each in gone if not each.call_id or each.call_id in seen.pauses)
        for kind, type_ in ((MessageKind.SIGNAL, Type.WORKFLOW_SIGNALLED), (MessageKind.RESUME, Type.WORKFLOW_RESUMED)):
            if told[type_] < kinds[kind]:
                self._breach("inbox", f"{gone} leave the inbox, and {append} does not tell of them")

    def _note_pauses(self, append: Append) -> None:
        seen = self.seen.get(append.execution_id)
        if seen is not None and seen.row.last_seq == append.expected_seq + len(append.events):
            opened = {pause.call_id for pause in append.opened}
            seen.open |= opened
            seen.pauses |= opened

    def _check_answer(self, execution_id: str, pause: Pause) -> None:
        opened = self.seen[execution_id].open
        if pause.call_id not in opened:
            self._breach("once", f"{pause} of {execution_id} is answered a second time")
        opened.discard(pause.call_id)

    # -- acts

    def acted(self, process: "Process", effect: Effect, fence: int, *, is_pure: bool) -> None:
        """Look at an attempt that begins to act."""
        self._check_trust(process, effect)
        if is_pure:
            return
        self.effects.add(key_of(effect))
        if (effect, fence) in self._acted:
            self._breach("twice", f"{effect} acts again under fence {fence}")
        self._acted.add((effect, fence))
        cause = _cause_of(effect)
        stored = self._causes[effect.execution_id, effect.generation, effect.call_id, cause]
        if stored < (effect.attempt if cause is Type.TASK_RETRY_STARTED else 1):
            self._breach("cause", f"{effect} acts before its {cause} is stored")
        seen = self.seen.get(effect.execution_id)
        is_owner = seen is not None and seen.row.fence == fence and seen.row.worker in process.workers
        if seen is not None and is_owner and effect.generation == seen.generation and not effect.part:
            if effect.call_id in seen.ended:
                self._breach("again", f"{effect} has ended, and acts")

    def _check_trust(self, process: "Process", effect: Effect) -> None:
        has_just_woken = process.blocked_until == self._universe.us
        if process.app._lease.worker and not _is_trusted(process) and not has_just_woken:
            self._breach("trust", f"{effect} acts in {process.name}, whose lease may be over")

    def _breach(self, rule: str, text: str) -> None:
        self._universe.breach(rule, text)


def _is_trusted(process: "Process") -> bool:
    """Whether the lease of a process is trusted, by its own clock; not by what the process says of it."""
    return process.clock.monotonic() < process.app._lease._trusted_until


def _cause_of(effect: Effect) -> Type:
    if effect.part:
        return Type.TASK_FALLBACK_STARTED if effect.part == "fallback/" else Type.TASK_ROLLBACK_STARTED
    return Type.TASK_RETRY_STARTED if effect.attempt else Type.TASK_STARTED
