"""The oracle of the crash tests: what was done to the world, what was acknowledged, and what the disk holds."""

import collections
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from flux import ExecutionEvent
from flux.store.sqlite import SqliteStore

OUTCOMES = {"TASK_COMPLETED", "TASK_FAILED", "TASK_CANCELLED"}
ATTEMPTS = {"TASK_STARTED", "TASK_RETRY_STARTED"}
Key = tuple[str, str]  # Of a task: the execution, and its argument `key`.


class Violation(AssertionError):
    """A promise that was broken."""


@dataclass
class Checker:
    """Looks at a directory after each death of its processes, and remembers what it saw.

    Args:
        directory: With the database, the ledger of effects and the acknowledgements.
    """

    directory: Path
    histories: dict[str, list[ExecutionEvent]] = field(default_factory=dict)
    interruptions: collections.Counter[Key] = field(default_factory=collections.Counter)
    ended: dict[Key, int] = field(default_factory=dict)  # How many effects a task had when its outcome was seen.

    def look(self, executions: list[str]) -> None:
        """Check every promise; call it when no process runs.

        Raises:
            Violation: One was broken.
        """
        effects, acks = self._effects(), self._acks()
        histories, fences = self._read(executions)
        for id_ in executions:
            events = histories[id_]
            self._check_history(id_, events, fences[id_])
            self._check_acks(id_, events, acks[id_])
            self._check_effects(id_, events, effects)
            self.histories[id_] = events

    def outputs(self) -> dict[str, object]:
        """What each finished execution gave, as it is stored."""
        return {id_: events[-1].value for id_, events in self.histories.items() if events[-1].type.endswith("ETED")}

    def _read(self, executions: list[str]) -> tuple[dict[str, list[ExecutionEvent]], dict[str, list[int]]]:
        """Read a copy, so that looking does not mend what the next process must mend."""
        source, copy = self.directory / ".flux", self.directory / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for name in ("flux.db", "flux.db-wal"):
            if (source / name).exists():
                shutil.copy(source / name, copy / name)
        if not (copy / "flux.db").exists():
            return {id_: [] for id_ in executions}, {id_: [] for id_ in executions}
        with closing(SqliteStore(copy / "flux.db")) as store:
            histories = {id_: store.events(id_) for id_ in executions}
        with closing(sqlite3.connect(copy / "flux.db")) as database:
            check = database.execute("PRAGMA integrity_check").fetchall()
            if check != [("ok",)]:
                raise Violation(f"the database is damaged: {check}")
            fences = {id_: self._fences(database, id_) for id_ in executions}
        return histories, fences

    @staticmethod
    def _fences(database: sqlite3.Connection, id_: str) -> list[int]:
        joined = "events JOIN executions ON executions.number = events.execution"
        query = f"SELECT events.fence FROM {joined} WHERE execution_id = ? ORDER BY seq"
        return [fence for (fence,) in database.execute(query, (id_,))]

    def _check_history(self, id_: str, events: list[ExecutionEvent], fences: list[int]) -> None:
        if [event.seq for event in events] != list(range(1, len(events) + 1)):
            raise Violation(f"{id_}: the history is not dense")
        if fences != sorted(fences):
            raise Violation(f"{id_}: an owner wrote after its successor: {fences}")
        before = self.histories.get(id_, [])
        if [as_told(event) for event in before] != [as_told(event) for event in events[: len(before)]]:
            raise Violation(f"{id_}: stored history has changed")

    def _check_acks(self, id_: str, events: list[ExecutionEvent], acks: list[list[str]]) -> None:
        for seq, *told in acks:
            if seq == "result":
                state, output = told
                if not events or (events[-1].type, str(events[-1].value)) != (f"WORKFLOW_{state}", output):
                    raise Violation(f"{id_}: run() returned {output}, which is not stored")
            elif int(seq) > len(events) or as_told(events[int(seq) - 1]) != told:
                raise Violation(f"{id_}: event {seq} was acknowledged as {told}, and is lost")

    def _check_effects(self, id_: str, events: list[ExecutionEvent], effects: collections.Counter[Key]) -> None:
        keys = {e.call_id: (id_, e.value["key"]) for e in events if e.type == "TASK_STARTED" and "key" in e.value}
        ended = {keys[e.call_id] for e in events if e.type in OUTCOMES and e.call_id in keys}
        attempts = collections.Counter(keys[e.call_id] for e in events if e.type in ATTEMPTS and e.call_id in keys)
        for key, count in effects.items():
            if key[0] != id_:
                continue
            if key not in attempts:
                raise Violation(f"{key}: took effect {count} times before its start was stored")
            if count > attempts[key] + self.interruptions[key]:
                times = f"{attempts[key]} attempts, {self.interruptions[key]} interruptions"
                raise Violation(f"{key}: took effect {count} times in {times}")
            if count != self.ended.get(key, count):
                raise Violation(f"{key}: took effect again after its outcome was stored")
        self.ended |= {key: effects[key] for key in ended}
        self.interruptions.update(key for key in attempts if key not in ended)

    def _effects(self) -> collections.Counter[Key]:
        return collections.Counter((execution, key) for execution, key, _ in map(str.split, self._lines("ledger")))

    def _acks(self) -> dict[str, list[list[str]]]:
        acks = collections.defaultdict(list)
        for execution, *ack in map(str.split, self._lines("acks")):
            acks[execution].append(ack)
        return acks

    def _lines(self, name: str) -> list[str]:
        file = self.directory / name
        return file.read_text().splitlines() if file.exists() else []


def as_told(event: ExecutionEvent) -> list[str]:
    """An event as a process acknowledges it."""
    return [str(event.type), str(crc32(event.data or b"")), str(crc32(event.detail_data or b""))]
