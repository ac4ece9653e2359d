"""What a server shows and finds, in the SQLite file of the store."""

import dataclasses
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flux.catalogue import Change, Line, PublishedWorkflow, Search, StoredToken, WorkerRow
from flux.domain.events import ExecutionEvent
from flux.domain.execution import ExecutionState
from flux.domain.figures import Figures
from flux.ports import ExecutionRow
from flux.store.database import Database
from flux.store.overflow import Overflow
from flux.store.rows import execution_row, history
from flux.store.statements import SQL as _SQL


class SqliteCatalogue:
    """`catalogue.Catalogue` on the file that a store has opened."""

    def __init__(self, database: Database, overflow: Overflow) -> None:
        self._database, self._overflow = database, overflow

    # -- executions

    def search(self, search: Search) -> list[ExecutionRow]:
        with self._database.read() as cursor:
            records = cursor.execute(_SQL["search_executions"], _wanted(search)).fetchall()
            return [self._row(cursor, record) for record in records]

    def counts(self, search: Search) -> dict[ExecutionState, int]:
        with self._database.read() as cursor:
            counted = dict(cursor.execute(_SQL["count_executions"], _wanted(search)).fetchall())
        return {state: counted.get(state.value, 0) for state in ExecutionState}

    def next_wake(self, workflows: Mapping[str, str]) -> int | None:
        with self._database.read() as cursor:
            wanted = {"workflows": json.dumps(dict(workflows))}
            return cursor.execute(_SQL["find_next_wake"], wanted).fetchone()[0]  # type: ignore[no-any-return]

    def events(self, execution_id: str, *, after: int, limit: int) -> list[ExecutionEvent]:
        with self._database.read() as cursor:
            record = cursor.execute(_SQL["find_execution"], (execution_id,)).fetchone()
            if record is None:
                return []
            row = self._row(cursor, record)
            after = max(after, row.first_seq - 1)
            page = dataclasses.replace(row, last_seq=min(row.last_seq, after + limit))
            records = cursor.execute(_SQL["read_events"], (row.number, after, page.last_seq))
            return self._overflow.restore_all(history(self._database.path, page, after, records))

    def figures(self, *, now: int) -> Figures:
        with self._database.read() as cursor:
            counted = dict(cursor.execute(_SQL["count_states"]).fetchall())
            oldest, blocked, workers = cursor.execute(_SQL["measure_queue"], {"now": now}).fetchone()
        states = {state: counted.get(state.value, 0) for state in ExecutionState}
        return Figures(states=states, blocked=blocked, oldest_due_at=oldest, workers=workers)

    def attributes(self, execution_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        with self._database.read() as cursor:
            wanted = {"execution_ids": json.dumps(list(execution_ids))}
            for execution_id, name, value in cursor.execute(_SQL["list_attributes"], wanted):
                found.setdefault(execution_id, {})[name] = value
        return found

    def changes(self, *, after: int, limit: int) -> list[Change]:
        with self._database.read() as cursor:
            records = cursor.execute(_SQL["list_changes"], {"after": after, "limit": limit}).fetchall()
            names = [column[0] for column in cursor.description][1:]
        return [Change(id=id_, row=execution_row(self._database.path, names, record)) for id_, *record in records]

    def last_change(self) -> int:
        with self._database.read() as cursor:
            (number,) = cursor.execute(_SQL["find_last_change"]).fetchone()
            return int(number)

    def _row(self, cursor: sqlite3.Cursor, record: Sequence[Any]) -> ExecutionRow:
        return execution_row(self._database.path, [column[0] for column in cursor.description], record)

    # -- workers

    def publish(
        self,
        worker: str,
        *,
        process: str,
        workflows: Sequence[PublishedWorkflow],
        now: int,
        labels: Mapping[str, str] | None = None,
        left: Sequence[PublishedWorkflow] = (),
    ) -> None:
        told = {"worker": worker, "process": process, "now": now, "labels": _json_of(labels or {})}
        known = [asdict(workflow) | {"labels": _json_of(workflow.labels)} for workflow in (*workflows, *left)]
        with self._database.write() as cursor:
            cursor.execute(_SQL["publish_worker"], told)
            cursor.execute(_SQL["delete_served"], (worker,))
            cursor.executemany(_SQL["publish_workflow"], known)
            cursor.executemany(_SQL["insert_served"], [(worker, workflow.name) for workflow in workflows])

    def workflows(self) -> list[PublishedWorkflow]:
        with self._database.read() as cursor:
            records = cursor.execute(_SQL["list_workflows"]).fetchall()
            names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, record, strict=True)) for record in records]
        return [PublishedWorkflow(**row | {"labels": json.loads(row["labels"])}) for row in rows]

    def workers(self) -> list[WorkerRow]:
        with self._database.read() as cursor:
            records = cursor.execute(_SQL["show_workers"]).fetchall()
            names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, record, strict=True)) for record in records]
        return [WorkerRow(**row | {name: json.loads(row[name]) for name in ("workflows", "labels")}) for row in rows]

    # -- lines

    def add_lines(self, lines: Sequence[Line], *, most: int) -> None:
        rows = [{name: getattr(line, name) for name in Line.__slots__} for line in lines]
        with self._database.write() as cursor:
            cursor.executemany(_SQL["insert_line"], rows)
            for execution_id in {line.execution_id for line in lines}:
                cursor.execute(_SQL["delete_old_lines"], {"execution_id": execution_id, "most": most})

    def lines(self, execution_id: str, *, after: int, limit: int) -> list[Line]:
        with self._database.read() as cursor:
            wanted = {"execution_id": execution_id, "after": after, "limit": limit}
            records = cursor.execute(_SQL["list_lines"], wanted).fetchall()
            names = [column[0] for column in cursor.description]
        return [Line(**dict(zip(names, record, strict=True))) for record in records]

    # -- tokens

    def tokens(self) -> list[StoredToken]:
        with self._database.read() as cursor:
            return [_token(record) for record in cursor.execute(_SQL["list_tokens"])]

    def find_token(self, digest: bytes) -> StoredToken | None:
        with self._database.read() as cursor:
            record = cursor.execute(_SQL["find_token"], (digest,)).fetchone()
            return None if record is None else _token(record)

    def add_token(self, token: StoredToken) -> bool:
        with self._database.write() as cursor:
            return cursor.execute(_SQL["insert_token"], asdict(token)).rowcount == 1

    def delete_token(self, name: str) -> bool:
        with self._database.write() as cursor:
            return cursor.execute(_SQL["delete_token"], (name,)).rowcount == 1


def _wanted(search: Search) -> dict[str, Any]:
    wanted = {name: getattr(search, name) for name in search.__dataclass_fields__}
    return wanted | {
        "state": search.state and search.state.value,
        "attributes": json.dumps(dict(search.attributes)),
    }


def _json_of(labels: Mapping[str, str]) -> str:
    return json.dumps(dict(labels), sort_keys=True)


def _token(record: Sequence[Any]) -> StoredToken:
    name, digest, role, created_at, expires_at = record
    return StoredToken(name=name, digest=digest, role=role, created_at=created_at, expires_at=expires_at)
