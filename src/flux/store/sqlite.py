"""The store of one machine: a SQLite file, shared by the processes that run its executions."""

import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from flux import telemetry
from flux.domain.events import ExecutionEvent
from flux.domain.execution import POISON, POISON_TAKEOVERS, SUSPECT_TAKEOVERS, ExecutionState
from flux.errors import StoreError
from flux.ids import check_worker
from flux.ports import (
    Append,
    AppendResult,
    Claim,
    ExecutionRow,
    Message,
    MessageKind,
    NewExecution,
    Pause,
    SealedSecret,
)
from flux.settings import Durability
from flux.store.catalogue import SqliteCatalogue
from flux.store.companions import ask_to_cancel, deliver, move_pauses, restart_history, tell_parent
from flux.store.database import Database
from flux.store.file_lock import FileLock, is_held
from flux.store.gathered import Gathered
from flux.store.overflow import Overflow
from flux.store.rows import cached_result, cached_row, event_rows, execution_row, history, message
from flux.store.statements import SQL as _SQL

logger = logging.getLogger("flux")

_ADVANCE, _APPEND_EVENT = _SQL["advance_execution"], _SQL["append_event"]
_UNSTORABLE = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    TypeError,
    ValueError,
)
_NUMBERS_KEPT = 100_000

EventRows = list[tuple[Any, ...]]
EventList = list[ExecutionEvent]


class SqliteStore:
    """`ports.Store` on one SQLite file, made with its folder when missing; `catalogue` is `catalogue.Catalogue` on it.

    Args:
        durability: What its own commits survive.

    Raises:
        StoreError: The file cannot be opened.
    """

    def __init__(self, path: Path, *, durability: Durability = Durability.FULL) -> None:
        self._database = Database(path, durability=durability)
        self._path = self._database.path
        self._overflow = Overflow(self._path)
        self.catalogue = SqliteCatalogue(self._database, self._overflow)
        self._gathered = Gathered(self._append_exclusively)
        self._workers: dict[str, FileLock] = {}  # Registered here, with their proof of life.
        # Of running executions, so that an append need not look up a text; written under the right to write.
        self._numbers: dict[str, int] = {}

    def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        self._database.check_open()  # Before a lock that a fork may have left locked for ever.
        return self._gathered.append(self._overflow.spill_all(appends))

    def try_append(self, appends: Sequence[Append]) -> list[AppendResult] | None:
        appends = self._overflow.spill_all(appends)
        if not self._database.try_acquire():
            return None
        try:
            return self._append(appends)
        finally:
            self._database.release()

    def claim(self, execution_id: str, *, worker: str, version: str, now: int) -> Claim | None:
        row = self.get(execution_id)
        if row is None or row.state is not ExecutionState.SCHEDULED:
            return None  # As for most who ask: this costs no lock.
        with self._database.write() as cursor:
            return self._claim(cursor, row.number, worker=worker, version=version, now=now)

    def claim_ready(self, *, worker: str, workflows: Mapping[str, str], now: int, limit: int) -> list[Claim]:
        due = {"workflows": json.dumps(dict(workflows)), "now": now, "limit": limit}
        with self._database.read() as cursor:
            if cursor.execute(_SQL["find_due"], due).fetchone() is None:
                return []
        with self._database.write() as cursor:
            due_rows = cursor.execute(_SQL["find_due"], due).fetchall()
            claims = [self._claim_or_block(cursor, number, worker, version, now) for number, version in due_rows]
        return [claim for claim in claims if claim is not None]

    def get(self, execution_id: str) -> ExecutionRow | None:
        with self._database.read() as cursor:
            return self._find(cursor, execution_id)

    def events(self, execution_id: str, *, after: int = 0) -> EventList:
        with self._database.read() as cursor:
            row = self._find(cursor, execution_id)
            return [] if row is None else self._history(cursor, row, after)

    def pauses(self, execution_id: str) -> list[Pause]:
        with self._database.read() as cursor:
            return [Pause(*record) for record in cursor.execute(_SQL["list_pauses"], (execution_id,))]

    def resume(
        self, execution_id: str, *, data: bytes, now: int, name: str | None = None, client_id: str | None = None
    ) -> Pause | None:
        with self._database.write() as cursor:
            if client_id is not None:
                earlier = cursor.execute(_SQL["find_resume"], (execution_id, client_id)).fetchone()
                if earlier is not None:
                    return Pause(*earlier)
            bound = cursor.execute(_SQL["bind_pause"], {"execution_id": execution_id, "name": name, "now": now})
            pause = bound.fetchone()
            if pause is None:
                return None
            number, call_id, pause_name = pause
            resume = {"call_id": call_id, "name": pause_name, "data": data, "now": now, "client_id": client_id}
            deliver(cursor, number, MessageKind.RESUME, **resume)
            return Pause(call_id, pause_name)

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
        with self._database.write() as cursor:
            found = cursor.execute(_SQL["find_unfinished"], (execution_id,)).fetchone()
            if found is None:
                return False
            (number,) = found
            is_new = client_id is None or not cursor.execute(_SQL["find_message"], (number, client_id)).fetchone()
            if is_new:
                deliver(cursor, number, kind, name=name, data=data, now=now, client_id=client_id)
            return True

    def inbox(self, execution_id: str) -> list[Message]:
        restore = self._overflow.restore  # The result of a child is in the file that its own history refers to.
        with self._database.read() as cursor:
            records = cursor.execute(_SQL["list_messages"], (execution_id,)).fetchall()
        found = [message(self._path, execution_id, record) for record in records]
        return [replace(each, data=restore(execution_id, each.data)) for each in found]

    def addressed(self, worker: str) -> list[str]:
        with self._database.read() as cursor:
            return [execution_id for (execution_id,) in cursor.execute(_SQL["list_addressed"], {"worker": worker})]

    def release(self, execution_id: str, *, fence: int) -> bool:
        with self._database.write() as cursor:
            return cursor.execute(_SQL["release_execution"], (execution_id, fence)).rowcount == 1

    def unblock(self, execution_id: str) -> bool:
        with self._database.write() as cursor:
            return cursor.execute(_SQL["unblock_execution"], (execution_id,)).rowcount == 1

    def register_worker(self, worker: str, *, lease_expires_at: int) -> None:
        row = {"worker": worker, "lease_expires_at": lease_expires_at}
        with self._database.write() as cursor:
            known = cursor.execute(_SQL["extend_lease"], row).rowcount == 1
            if known and worker in self._workers:
                return
            self._hold_life(worker)
            cursor.execute(_SQL["release_worker"], (worker,))  # Of a namesake before it: who begins owns nothing.
            if not known:
                cursor.execute(_SQL["insert_worker"], row)

    def heartbeat(self, worker: str, *, lease_expires_at: int) -> bool:
        row = {"worker": worker, "lease_expires_at": lease_expires_at}
        with self._database.write() as cursor:
            return cursor.execute(_SQL["extend_lease"], row).rowcount == 1

    def remove_worker(self, worker: str) -> None:
        with self._database.write() as cursor:
            self._forget(cursor, worker)
        if worker in self._workers:
            self._workers.pop(worker).close()

    def rescue(self, *, now: int) -> int:
        rescued = quarantined = 0
        with self._database.write() as cursor:
            for worker, lease_expires_at in cursor.execute(_SQL["list_workers"]).fetchall():
                if worker in self._workers:
                    continue  # Whoever asks is alive, whatever its lease says.
                if lease_expires_at <= now or not is_held(self._life_path(worker)):
                    quarantined += self._quarantine(cursor, worker)
                    rescued += self._forget(cursor, worker)
            rescued += quarantined + cursor.execute(_SQL["release_orphans"]).rowcount
        if rescued:
            telemetry.emit("executions.rescued", executions=rescued, quarantined=quarantined)
        return rescued

    def cached_result(self, key: bytes, *, now: int) -> bytes | None:
        with self._database.read() as cursor:
            found = cursor.execute(_SQL["find_cached_result"], {"key": key, "now": now}).fetchone()
            return None if found is None else cached_result(self._path, key, found)

    def secrets(self) -> list[SealedSecret]:
        with self._database.read() as cursor:
            return [SealedSecret(*record) for record in cursor.execute(_SQL["list_secrets"])]

    def put_secret(self, secret: SealedSecret, *, expected_version: int) -> bool:
        statement = _SQL["replace_secret" if expected_version else "insert_secret"]
        with self._database.write() as cursor:
            row = secret._asdict() | {"expected_version": expected_version}
            return cursor.execute(statement, row).rowcount == 1

    def delete_secret(self, name: str) -> bool:
        with self._database.write() as cursor:
            return cursor.execute(_SQL["delete_secret"], (name,)).rowcount == 1

    def news(self) -> int:
        return self._database.version()

    def reopen(self) -> None:
        self._database.reopen()

    def close(self) -> None:
        if not self._database.is_ours:
            return
        for worker in tuple(self._workers):
            with suppress(StoreError):  # A rescue does it later: the lock is freed in any case.
                self.remove_worker(worker)
        for lock in self._workers.values():
            lock.close()
        self._workers.clear()
        self._database.close()

    def _append_exclusively(self, appends: Sequence[Append]) -> list[AppendResult]:
        with self._database.exclusive():
            return self._append(appends)

    def _append(self, appends: Sequence[Append]) -> list[AppendResult]:
        try:
            with self._database.transaction() as cursor:
                try:
                    return self._store(cursor, appends)
                except _UNSTORABLE:
                    cursor.execute("ROLLBACK")
                    cursor.execute("BEGIN IMMEDIATE")
                return [self._store_alone(cursor, append) for append in appends]
        except BaseException:
            self._numbers.clear()  # The numbers of creations that were rolled back will be given to others.
            raise

    def _store(self, cursor: sqlite3.Cursor, appends: Sequence[Append]) -> list[AppendResult]:
        rows: EventRows = []
        results = [
            self._move(cursor, append, rows)
            if append.create is None
            else self._create(cursor, append, append.create, rows)
            for append in appends
        ]
        cursor.executemany(_APPEND_EVENT, rows)
        return results

    def _store_alone(self, cursor: sqlite3.Cursor, append: Append) -> AppendResult:
        cursor.execute("SAVEPOINT alone")
        try:
            (result,) = self._store(cursor, (append,))
        except _UNSTORABLE:
            cursor.execute("ROLLBACK TO alone")
            logger.exception("append refused", extra={"execution_id": append.execution_id})
            result = AppendResult.REFUSED
        cursor.execute("RELEASE alone")
        return result

    def _move(self, cursor: sqlite3.Cursor, append: Append, rows: EventRows) -> AppendResult:
        """Compare and move the execution's row; if it matched, add the events to `rows`."""
        execution_id, fence, expected_seq = append.execution_id, append.fence, append.expected_seq
        number = self._numbers.get(execution_id) or self._find_number(cursor, execution_id)
        if append.state is ExecutionState.RUNNING:
            last_seq = expected_seq + len(append.events)
            cursor.execute(_ADVANCE, (last_seq, number, execution_id, fence, expected_seq))
            is_moved = cursor.rowcount == 1
        elif append.state.is_finished:
            finished = cursor.execute(_SQL["finish_execution"], _outcome(append) | {"number": number}).fetchone()
            is_moved = finished is not None
            if is_moved:
                parent, call_id = finished
                tell_parent(cursor, parent, call_id, append)
        else:
            cursor.execute(_SQL["park_execution"], _outcome(append) | {"number": number})
            is_moved = cursor.rowcount == 1
        if append.state is not ExecutionState.RUNNING or not is_moved:
            self._numbers.pop(execution_id, None)
        if not is_moved:
            return self._refusal(cursor, append)
        rows += event_rows(number, execution_id, fence, expected_seq, append.events)
        self._store_companions(cursor, number, append, rows)
        return AppendResult.STORED

    def _store_companions(self, cursor: sqlite3.Cursor, number: int, append: Append, rows: EventRows) -> None:
        """Store what goes with the events."""
        if append.restart:
            restart_history(cursor, number, append.expected_seq + 1)
        if append.opened or append.closed or append.consumed:
            move_pauses(cursor, number, append)
        for child in append.children:
            assert child.create is not None
            self._create(cursor, child, child.create, rows)  # One that exists is what a repeat has made.
        if append.cancels or append.ends_children:
            ask_to_cancel(cursor, number, append)
        for result in append.cached:
            cursor.execute(_SQL["cache_result"], cached_row(result))

    def _create(self, cursor: sqlite3.Cursor, append: Append, new: NewExecution, rows: EventRows) -> AppendResult:
        """Insert the execution's row; if its id was free, add the events to `rows`."""
        row = _creation(append, new)
        cursor.execute(_SQL["create_execution"], row)
        if cursor.rowcount != 1:
            found = cursor.execute(_SQL["find_creation"], row).fetchone()
            repeated = found is not None and _is_stored(cursor, found[0], append, row["fence"])
            return AppendResult.STORED if repeated else AppendResult.EXISTS
        number = cursor.lastrowid or 0
        if row["state"] == ExecutionState.RUNNING:
            self._remember(append.execution_id, number)
        rows += event_rows(number, append.execution_id, row["fence"], 0, append.events)
        for name, value in new.attributes.items():
            cursor.execute(_SQL["insert_attribute"], (number, name, value))
        self._store_companions(cursor, number, append, rows)
        return AppendResult.STORED

    def _refusal(self, cursor: sqlite3.Cursor, append: Append) -> AppendResult:
        """Say why an execution's row did not match: its owner was superseded, unless the answer to this was lost."""
        row = self._find(cursor, append.execution_id)
        if row is None:
            return AppendResult.STALE
        if append.events:
            stored = _is_stored(cursor, row.number, append, append.fence)
        else:
            outcome = (append.fence, append.expected_seq, append.state, append.wake_at, append.blocked_reason)
            stored = outcome == (row.fence, row.last_seq, row.state, row.wake_at, row.blocked_reason)
        if stored:
            return AppendResult.STORED
        is_owner = (row.state, row.fence, row.last_seq) == (ExecutionState.RUNNING, append.fence, append.expected_seq)
        return AppendResult.NEWS if is_owner else AppendResult.STALE

    def _claim(self, cursor: sqlite3.Cursor, number: int, *, worker: str, version: str, now: int) -> Claim | None:
        """Take an execution and read its history in one transaction: if that fails, it is not taken."""
        claim = {"number": number, "worker": worker, "version": version, "now": now, "suspect": SUSPECT_TAKEOVERS}
        record = cursor.execute(_SQL["claim_execution"], claim).fetchone()
        if record is None:
            return None
        row = self._row(cursor, record)
        events = self._history(cursor, row)
        self._remember(row.execution_id, number)
        return Claim(row, events)

    def _claim_or_block(self, cursor: sqlite3.Cursor, number: int, worker: str, version: str, now: int) -> Claim | None:
        try:
            return self._claim(cursor, number, worker=worker, version=version, now=now)
        except StoreError as error:
            cursor.execute(_SQL["block_execution"], {"number": number, "reason": str(error)})
            logger.exception("execution blocked", extra={"number": number})
            return None

    def _find(self, cursor: sqlite3.Cursor, execution_id: str) -> ExecutionRow | None:
        record = cursor.execute(_SQL["find_execution"], (execution_id,)).fetchone()
        return None if record is None else self._row(cursor, record)

    def _row(self, cursor: sqlite3.Cursor, record: Sequence[Any]) -> ExecutionRow:
        return execution_row(self._path, [column[0] for column in cursor.description], record)

    def _history(self, cursor: sqlite3.Cursor, row: ExecutionRow, after: int = 0) -> EventList:
        after = max(after, row.first_seq - 1)
        records = cursor.execute(_SQL["read_events"], (row.number, after, row.last_seq))
        return self._overflow.restore_all(history(self._path, row, after, records))

    def _find_number(self, cursor: sqlite3.Cursor, execution_id: str) -> int:
        row = self._find(cursor, execution_id)
        if row is None:
            return 0  # No row has it.
        self._remember(execution_id, row.number)
        return row.number

    def _remember(self, execution_id: str, number: int) -> None:
        if len(self._numbers) >= _NUMBERS_KEPT:
            self._numbers.clear()
        self._numbers[execution_id] = number

    def _life_path(self, worker: str) -> Path:
        return self._path.parent / "workers" / f"{worker}.lock"

    def _hold_life(self, worker: str) -> None:
        """Hold the lock that proves a worker's life, in place of one that a rescue took from under us."""
        check_worker(worker)
        if worker in self._workers:
            self._workers.pop(worker).close()
        path = self._life_path(worker)
        try:
            path.parent.mkdir(exist_ok=True)
            lock = FileLock(path)
        except OSError as error:
            raise StoreError(f"worker {worker} cannot hold {path}: {error}. Make that folder writable") from error
        if not lock.try_acquire():
            lock.close()
            raise StoreError(f"worker {worker} is alive in another process, which holds {path}: choose another id")
        self._workers[worker] = lock

    @staticmethod
    def _quarantine(cursor: sqlite3.Cursor, worker: str) -> int:
        """Count a worker's death against what it ran, and put aside what had too many."""
        cursor.execute(_SQL["count_takeovers"], (worker,))
        poison = {"worker": worker, "limit": POISON_TAKEOVERS, "reason": POISON}
        return cursor.execute(_SQL["quarantine_poison"], poison).rowcount

    def _forget(self, cursor: sqlite3.Cursor, worker: str) -> int:
        released = cursor.execute(_SQL["release_worker"], (worker,)).rowcount
        cursor.execute(_SQL["delete_worker"], (worker,))
        with suppress(OSError):  # A file that stays is one that nobody holds.
            self._life_path(worker).unlink(missing_ok=True)
        return released

    def list(  # Last, because in the class it hides the type of that name from what follows.
        self,
        *,
        workflow: str | None = None,
        state: ExecutionState | None = None,
        parent_id: str | None = None,
        limit: int = 50,
    ) -> list[ExecutionRow]:
        wanted = {"workflow": workflow, "state": state and state.value, "parent_id": parent_id, "limit": limit}
        statement = _SQL["list_executions" if parent_id is None else "list_children"]
        with self._database.read() as cursor:
            records = cursor.execute(statement, wanted).fetchall()
            return [self._row(cursor, record) for record in records]


def _outcome(append: Append) -> dict[str, Any]:
    """What an append makes of the row, as parameters."""
    return {
        "execution_id": append.execution_id,
        "fence": append.fence,
        "expected_seq": append.expected_seq,
        "last_seq": append.expected_seq + len(append.events),
        "state": append.state.value,
        "wake_at": append.wake_at,
        "blocked_reason": append.blocked_reason,
        "blocked_version": append.blocked_version,
        "consumed": json.dumps(list(append.consumed)),
        "finished_at": append.events[-1].time_us if append.events and append.state.is_finished else None,
    }


def _creation(append: Append, new: NewExecution) -> dict[str, Any]:
    """The row of a new execution, as parameters: its first append may already park or finish it."""
    row = _outcome(append) | {
        "namespace": new.namespace,
        "workflow": new.workflow,
        "version": new.version,
        "location": new.location,
        "start_digest": new.start_digest,
        "created_at": new.created_at,
        "created_by": new.worker,
        "worker": new.worker if append.state is ExecutionState.RUNNING else None,
        "fence": 1,
        "started_at": new.created_at,
        "parent_id": new.parent.execution_id if new.parent else None,
        "parent_call": new.parent.call_id if new.parent else None,
        "forked_from": new.forked_from,
    }
    if new.worker is None:
        row |= {"state": ExecutionState.SCHEDULED.value, "fence": 0, "started_at": None, "finished_at": None}
    return row


def _is_stored(cursor: sqlite3.Cursor, number: int, append: Append, fence: int) -> bool:
    """Whether exactly these events are in the history already, under this fence."""
    after, events = append.expected_seq, append.events
    ours = [row[1:3] + row[-1:] for row in event_rows(number, append.execution_id, fence, after, events)]
    records = cursor.execute(_SQL["read_events"], (number, after, after + len(events))).fetchall()
    return ours == [record[:2] + record[-1:] for record in records]
