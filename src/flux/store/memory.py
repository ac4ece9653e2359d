"""The store without a disk: for tests and simulations, whole, with the same answers as any other."""

import copy
import dataclasses
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flux.domain.events import ExecutionEvent
from flux.domain.execution import POISON, POISON_TAKEOVERS, SUSPECT_TAKEOVERS, ExecutionState
from flux.errors import StoreError
from flux.ids import check_worker
from flux.ports import (
    NOW,
    Append,
    AppendResult,
    CachedResult,
    Claim,
    ExecutionRow,
    Message,
    MessageKind,
    NewExecution,
    Pause,
    SealedSecret,
)
from flux.store.constraints import is_possible
from flux.store.rows import new_row

_RUNNING, _SCHEDULED, _PAUSED = ExecutionState.RUNNING, ExecutionState.SCHEDULED, ExecutionState.PAUSED
EventList = list[ExecutionEvent]


@dataclass(slots=True, eq=False)
class _Execution:
    """One execution, and all that belongs to it."""

    row: ExecutionRow
    created_by: str | None
    events: EventList = field(default_factory=list)
    fences: list[int] = field(default_factory=list)  # Under which each of the events was appended.
    pauses: dict[str, tuple[Pause, bool]] = field(default_factory=dict)  # By call id; whether it is answered.
    inbox: dict[int, Message] = field(default_factory=dict)
    known: dict[str, Pause | None] = field(default_factory=dict)  # Client ids, and the pauses that they answered.
    children: list[str] = field(default_factory=list)
    attributes: Mapping[str, str] = field(default_factory=dict)
    claimed_version: str = ""
    takeovers: int = 0  # In a row, with `taken_over_seq` as the last seq.
    taken_over_seq: int = 0

    @property
    def is_suspect(self) -> bool:
        row = self.row
        is_stuck = self.takeovers >= SUSPECT_TAKEOVERS and self.taken_over_seq == row.last_seq
        return is_stuck and row.parent_id is None

    def set(self, **fields: Any) -> None:
        self.row = replace(self.row, **fields)


class Memory:
    """What a database holds; several stores on one memory are as several processes on one file."""

    def __init__(self) -> None:
        self.executions: dict[str, _Execution] = {}
        self.workers: dict[str, int] = {}
        self.alive: set[str] = set()  # Workers whose process holds its proof of life.
        self.secrets: dict[str, SealedSecret] = {}
        self.cached: dict[bytes, CachedResult] = {}
        self.messages = self.changes = 0
        self.lock = threading.RLock()

    def snapshot(self) -> "Memory":
        """What a crash would leave: the same content, and every process gone."""
        with self.lock:
            memory = Memory()
            for name, value in vars(self).items():
                if name not in {"lock", "alive", "executions"}:
                    setattr(memory, name, copy.copy(value))
            memory.executions = {id_: _copied(each) for id_, each in self.executions.items()}
            return memory


class MemoryStore:
    """`ports.Store` in memory.

    Args:
        memory: Shared with other stores; a new one by default.

    Example:
        >>> store = MemoryStore()
        >>> crashed = MemoryStore(store.memory.snapshot())
    """

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory or Memory()
        self._workers: set[str] = set()

    # -- the log

    def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        with self.memory.lock:
            self.memory.changes += 1
            return [self._append(append) for append in appends]

    def try_append(self, appends: Sequence[Append]) -> list[AppendResult] | None:
        return self.append(appends)

    def get(self, execution_id: str) -> ExecutionRow | None:
        with self.memory.lock:
            found = self.memory.executions.get(execution_id)
            return found.row if found is not None else None

    def events(self, execution_id: str, *, after: int = 0) -> EventList:
        with self.memory.lock:
            found = self.memory.executions.get(execution_id)
            return [event.undecoded() for event in found.events if event.seq > after] if found else []

    def attributes(self, execution_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """As `Catalogue.attributes`: the attributes of each of these that has some."""
        with self.memory.lock:
            known = {id_: self.memory.executions.get(id_) for id_ in execution_ids}
            return {id_: dict(each.attributes) for id_, each in known.items() if each is not None and each.attributes}

    # -- claims

    def claim(self, execution_id: str, *, worker: str, version: str, now: int) -> Claim | None:
        with self.memory.lock:
            found = self.memory.executions.get(execution_id)
            is_due = found is not None and _is_due(found.row, version, now)
            return self._claim(found, worker, version, now) if found is not None and is_due else None

    def claim_ready(self, *, worker: str, workflows: Mapping[str, str], now: int, limit: int) -> list[Claim]:
        with self.memory.lock:
            due = [
                each
                for each in self.memory.executions.values()
                if each.row.workflow in workflows and _is_due(each.row, workflows[each.row.workflow], now)
            ]
            due.sort(key=lambda each: (each.row.wake_at or each.row.created_at, each.row.number))
            claims = [self._claim(each, worker, workflows[each.row.workflow], now) for each in due[:limit]]
            return [claim for claim in claims if claim is not None]

    def release(self, execution_id: str, *, fence: int) -> bool:
        with self.memory.lock:
            found = self.memory.executions.get(execution_id)
            if found is None or (found.row.fence, found.row.state) != (fence, _RUNNING):
                return False
            self._release([found])
            return True

    def unblock(self, execution_id: str) -> bool:
        with self.memory.lock:
            found = self.memory.executions.get(execution_id)
            if found is None or found.row.blocked_reason is None:
                return False
            self.memory.changes += 1
            found.set(blocked_reason=None, blocked_version=None)
            found.takeovers = 0
            return True

    # -- workers

    def register_worker(self, worker: str, *, lease_expires_at: int) -> None:
        check_worker(worker)
        with self.memory.lock:
            if worker not in self._workers or worker not in self.memory.workers:
                if worker in self.memory.alive and worker not in self._workers:
                    raise StoreError(f"worker {worker} is alive in another process: choose another id")
                self._workers.add(worker)
                self.memory.alive.add(worker)
                self._release(self._owned(worker))
            self.memory.workers[worker] = lease_expires_at

    def heartbeat(self, worker: str, *, lease_expires_at: int) -> bool:
        with self.memory.lock:
            if worker not in self.memory.workers:
                return False
            self.memory.workers[worker] = lease_expires_at
            return True

    def remove_worker(self, worker: str) -> None:
        with self.memory.lock:
            self._workers.discard(worker)
            self.memory.alive.discard(worker)
            self.memory.workers.pop(worker, None)
            self._release(self._owned(worker))

    def rescue(self, *, now: int) -> int:
        with self.memory.lock:
            rescued = 0
            for worker, lease_expires_at in tuple(self.memory.workers.items()):
                if worker not in self._workers and (lease_expires_at <= now or worker not in self.memory.alive):
                    del self.memory.workers[worker]
                    rescued += self._take_over(worker)
            running = [each for each in self.memory.executions.values() if each.row.state is _RUNNING]
            return rescued + self._release([each for each in running if each.row.worker not in self.memory.workers])

    # -- the inbox

    def pauses(self, execution_id: str) -> list[Pause]:
        with self.memory.lock:
            found = self._unfinished(execution_id)
            return [pause for pause, is_answered in found.pauses.values() if not is_answered] if found else []

    def resume(
        self, execution_id: str, *, data: bytes, now: int, name: str | None = None, client_id: str | None = None
    ) -> Pause | None:
        with self.memory.lock:
            known = self.memory.executions.get(execution_id)
            if known is not None and client_id is not None and known.known.get(client_id) is not None:
                return known.known[client_id]
            pause = next((each for each in self.pauses(execution_id) if name in {None, each.name}), None)
            if pause is None or known is None:
                return None
            known.pauses[pause.call_id] = pause, True
            self._deliver(known, MessageKind.RESUME, data, now, call_id=pause.call_id, name=pause.name)
            if client_id is not None:
                known.known[client_id] = pause
            return pause

    def send(
        self,
        execution_id: str,
        *,
        kind: MessageKind,
        data: bytes,
        now: int,
        name: str = "",
        client_id: str | None = None,
    ) -> bool:
        with self.memory.lock:
            found = self._unfinished(execution_id)
            if found is None:
                return False
            if client_id is None or client_id not in found.known:
                self._deliver(found, kind, data, now, name=name)
                if client_id is not None:
                    found.known[client_id] = None
            return True

    def inbox(self, execution_id: str) -> list[Message]:
        with self.memory.lock:
            found = self.memory.executions.get(execution_id)
            return list(found.inbox.values()) if found is not None else []

    def addressed(self, worker: str) -> list[str]:
        with self.memory.lock:
            owned = self._owned(worker)
            children = [self.memory.executions[child].row for each in owned for child in each.children]
            to_be_run = [child for child in children if _is_awake(child) and child.wake_at is None]
            return [each.row.execution_id for each in owned if each.inbox] + [
                child.execution_id for child in to_be_run if child.state is _SCHEDULED
            ]

    # -- secrets and cached results

    def cached_result(self, key: bytes, *, now: int) -> bytes | None:
        with self.memory.lock:
            found = self.memory.cached.get(key)
            return None if found is None or (found.expires_at or now + 1) <= now else found.data

    def secrets(self) -> list[SealedSecret]:
        with self.memory.lock:
            return [self.memory.secrets[name] for name in sorted(self.memory.secrets)]

    def put_secret(self, secret: SealedSecret, *, expected_version: int) -> bool:
        with self.memory.lock:
            stored = self.memory.secrets.get(secret.name)
            if (stored.version if stored is not None else 0) != expected_version:
                return False
            self.memory.secrets[secret.name] = secret
            return True

    def delete_secret(self, name: str) -> bool:
        with self.memory.lock:
            return self.memory.secrets.pop(name, None) is not None

    # -- its life

    def news(self) -> int:
        return self.memory.changes

    def reopen(self) -> None:
        """There is nothing to open."""

    def kill(self) -> None:
        """End as a killed process does: nothing is given back, and the proof of life is gone."""
        with self.memory.lock:
            self.memory.alive -= self._workers

    def close(self) -> None:
        for worker in tuple(self._workers):
            self.remove_worker(worker)

    # -- within

    def _append(self, append: Append) -> AppendResult:
        if not is_possible(append):
            return AppendResult.REFUSED
        if append.create is not None:
            return self._create(append, append.create)
        found = self.memory.executions.get(append.execution_id)
        if found is None:
            return AppendResult.STALE
        row = found.row
        if (row.fence, row.last_seq, row.state) != (append.fence, append.expected_seq, _RUNNING):
            return AppendResult.STORED if _is_stored(found, append) else AppendResult.STALE
        if self._has_news(found, append):
            return AppendResult.NEWS
        self._move(found, append)
        self._store_companions(found, append)
        return AppendResult.STORED

    def _has_news(self, found: _Execution, append: Append) -> bool:
        """Whether it must not be parked, or end, now."""
        if append.state is _RUNNING:
            return False
        if append.blocked_reason is not None:
            return False
        has_mail = bool(found.inbox.keys() - set(append.consumed))
        is_parked = not append.state.is_finished
        return has_mail or (is_parked and any(_is_awake(self.memory.executions[id_].row) for id_ in found.children))

    def _move(self, found: _Execution, append: Append) -> None:
        is_running, last_seq = append.state is _RUNNING, append.expected_seq + len(append.events)
        found.set(
            state=append.state,
            last_seq=last_seq,
            worker=found.row.worker if is_running else None,
            wake_at=append.wake_at,
            blocked_reason=append.blocked_reason,
            blocked_version=append.blocked_version,
            finished_at=append.events[-1].time_us if append.state.is_finished else None,
        )
        found.events += [event.undecoded() for event in append.events]
        found.fences += [append.fence] * len(append.events)
        parent = self._unfinished(found.row.parent_id or "") if append.state.is_finished else None
        if parent is not None:
            last = append.events[-1]
            told = {"call_id": found.row.parent_call or "", "name": last.type.value}
            self._deliver(parent, MessageKind.CHILD, last.data or b"", last.time_us, **told)

    def _create(self, append: Append, new: NewExecution) -> AppendResult:
        found = self.memory.executions.get(append.execution_id)
        if found is not None:
            same = new_row(append, new, found.row.number)
            fields = "namespace workflow version location start_digest created_at".split()
            is_same = found.created_by == new.worker and all(
                getattr(same, name) == getattr(found.row, name) for name in fields
            )
            return AppendResult.STORED if is_same and _is_stored(found, append) else AppendResult.EXISTS
        row = new_row(append, new, len(self.memory.executions) + 1)
        parent = self.memory.executions.get(row.parent_id or "")
        if parent is not None:
            parent.children.append(append.execution_id)
        found = _Execution(row, new.worker, attributes=dict(new.attributes))
        self.memory.executions[append.execution_id] = found
        found.events += [event.undecoded() for event in append.events]
        found.fences += [row.fence] * len(append.events)
        self._store_companions(found, append)
        return AppendResult.STORED

    def _store_companions(self, found: _Execution, append: Append) -> None:
        if append.restart:
            found.set(first_seq=append.expected_seq + 1)
            gone = len(found.events) - len(append.events)
            del found.events[:gone], found.fences[:gone]
            found.pauses.clear()
        found.pauses.update({pause.call_id: (pause, False) for pause in append.opened})
        for call_id in append.closed:
            found.pauses.pop(call_id, None)
        for id_ in append.consumed:
            found.inbox.pop(id_, None)
        for child in append.children:
            assert child.create is not None
            self._create(child, child.create)
        now = append.events[-1].time_us if append.events else 0
        for execution_id in append.cancels:
            child_found = self._unfinished(execution_id)
            if child_found is not None:
                self._deliver(child_found, MessageKind.CANCEL, b"", now)
        for execution_id in found.children if append.ends_children else ():
            child_found = self._unfinished(execution_id)
            if child_found is not None:
                self._deliver(child_found, MessageKind.CANCEL, b"", now, name=NOW)
        self.memory.cached.update({result.key: result for result in append.cached})

    def _deliver(
        self, found: _Execution, kind: MessageKind, data: bytes, now: int, *, call_id: str = "", name: str = ""
    ) -> None:
        """Put a message into an inbox, and wake whom it is for, with all paused ancestors."""
        self.memory.changes += 1
        self.memory.messages += 1
        message = Message(id=self.memory.messages, kind=kind, call_id=call_id, name=name, data=data, sent_at=now)
        found.inbox[message.id] = message
        if found.row.state in {_PAUSED, _SCHEDULED}:
            found.set(state=_SCHEDULED, wake_at=None)
        while found.row.finished_at is None and found.row.parent_id is not None:
            found = self.memory.executions[found.row.parent_id]
            if found.row.state in {_PAUSED, _SCHEDULED}:
                found.set(state=_SCHEDULED, wake_at=None)

    def _claim(self, found: _Execution, worker: str, version: str, now: int) -> Claim | None:
        row = found.row
        if found.is_suspect and any(each.is_suspect for each in self._owned(worker)):
            return None
        self.memory.changes += 1
        found.claimed_version = version
        found.takeovers = 0 if row.blocked_reason is not None else found.takeovers
        found.set(
            state=_RUNNING,
            worker=worker,
            fence=row.fence + 1,
            wake_at=None,
            blocked_reason=None,
            blocked_version=None,
            started_at=now if row.started_at is None else row.started_at,
        )
        return Claim(found.row, [event.undecoded() for event in found.events])

    def _owned(self, worker: str) -> "Sequence[_Execution]":
        executions = self.memory.executions.values()
        return [each for each in executions if each.row.worker == worker and each.row.state is _RUNNING]

    def _take_over(self, worker: str) -> int:
        """Count a worker's death against what it ran, and put aside what had too many."""
        owned = self._owned(worker)
        busy = {each.row.parent_id for each in self.memory.executions.values() if each.row.state is _RUNNING}
        for each in owned:
            row = each.row
            if row.execution_id not in busy:
                each.takeovers = each.takeovers + 1 if each.taken_over_seq == row.last_seq else 1
                each.taken_over_seq = row.last_seq
        rescued = self._release(owned)
        for each in owned:
            if each.takeovers >= POISON_TAKEOVERS and each.taken_over_seq == each.row.last_seq:
                each.set(blocked_reason=POISON, blocked_version=each.claimed_version or each.row.version)
        return rescued

    def _release(self, executions: "Sequence[_Execution]") -> int:
        self.memory.changes += 1
        for each in executions:
            each.set(state=_SCHEDULED, worker=None)
        return len(executions)

    def _unfinished(self, execution_id: str) -> _Execution | None:
        found = self.memory.executions.get(execution_id)
        return found if found is not None and found.row.finished_at is None else None

    def list(  # Last: in the class it hides the type of that name from what follows.
        self,
        *,
        workflow: str | None = None,
        state: ExecutionState | None = None,
        parent_id: str | None = None,
        limit: int = 50,
    ) -> list[ExecutionRow]:
        with self.memory.lock:
            rows = [each.row for each in reversed(self.memory.executions.values())]
        wanted = {"workflow": workflow, "state": state, "parent_id": parent_id}
        asked = {name: value for name, value in wanted.items() if value is not None}
        return [row for row in rows if all(getattr(row, name) == value for name, value in asked.items())][:limit]


def _is_awake(row: ExecutionRow) -> bool:
    """Whether a child goes on by itself: its parent does not sleep meanwhile."""
    return row.state in {_RUNNING, _SCHEDULED} and row.blocked_reason is None


def _is_due(row: ExecutionRow, version: str, now: int) -> bool:
    is_blocked = row.blocked_reason is not None and row.blocked_version in {None, version}
    return row.state is _SCHEDULED and (row.wake_at is None or row.wake_at <= now) and not is_blocked


def _is_stored(found: _Execution, append: Append) -> bool:
    """Whether exactly this append is what was stored last: then its answer was lost."""
    row = found.row
    if not append.events:
        outcome = (append.fence, append.expected_seq, append.state, append.wake_at, append.blocked_reason)
        return outcome == (row.fence, row.last_seq, row.state, row.wake_at, row.blocked_reason)
    fence = append.fence if append.create is None else (0 if append.create.worker is None else 1)
    first = append.expected_seq + 1 - row.first_seq
    stored = zip(found.events[first : first + len(append.events)], found.fences[first:], strict=False)
    ours = [(_facts(event), fence) for event in append.events]
    return first >= 0 and ours == [(_facts(event), under) for event, under in stored]


def _facts(event: ExecutionEvent) -> tuple[Any, ...]:
    return event.seq, event.type, event.call_id, event.name, event.data, event.detail_data, event.time_us


def _copied(execution: _Execution) -> _Execution:
    values = {each.name: copy.copy(getattr(execution, each.name)) for each in dataclasses.fields(execution)}
    return _Execution(**values)
