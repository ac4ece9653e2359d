"""Large values of a database, as files beside it: a row holds a marker in their place.

A file is named by its content and is on the disk before the transaction that refers to it begins, so a crash in between
leaves a file that nothing refers to, and writing it again changes nothing.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flux import files
from flux.domain.events import ExecutionEvent
from flux.errors import CorruptedDatabaseError, StoreError
from flux.ports import Append

OVERFLOW_BYTES = 256 * 1024
_PREFIX = b"f1"  # As the codecs of `serde` have theirs: no value of a user begins so.
_GLANCES_KEPT = 10_000
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*-[0-9a-f]{32}/(?P<digest>[0-9a-f]{64})")


class Overflow:
    """The files of one database.

    Args:
        database: The file of the database; values are in `outputs` beside it, in a folder for each execution.
    """

    def __init__(self, database: Path) -> None:
        self._folder = database.parent / "outputs"
        self._glances: set[int] = set()  # At what was written lately.

    def spill_all(self, appends: Sequence[Append]) -> Sequence[Append]:
        """The same appends, with the large values of their events in files and markers in their place.

        Raises:
            StoreError: A file cannot be written.
        """
        if not any(map(_has_large, appends)):
            return appends
        return [
            replace(
                append,
                events=[self._spill_event(event) if _is_large_event(event) else event for event in append.events],
                children=self.spill_all(append.children),
            )
            for append in appends
        ]

    def spill(self, execution_id: str, data: bytes) -> bytes:
        """What a row holds for these bytes: they themselves, or a marker if they are large.

        Raises:
            StoreError: The file cannot be written.
        """
        if not _is_large(data):
            return data
        folder = self._folder / files.name_for(execution_id)
        try:
            name = self._written_before(folder, data) or files.write_by_content(folder, data)
        except OSError as error:
            raise StoreError(
                f"a value of execution {execution_id} cannot be written to {folder}: {error}. See that the disk has "
                "space and that the folder is writable, and work goes on"
            ) from error
        return _PREFIX + json.dumps({"file": f"{folder.name}/{name}", "size": len(data)}).encode()

    def _written_before(self, folder: Path, data: bytes) -> str | None:
        """The name of the file that holds these bytes, if this process has written one that looks like it.

        What was returned by one task is often an argument of the next, and need not be written again.  But to know
        that takes its hash, and of most values that is computed while the disk writes them.
        """
        glance = hash((folder.name, len(data), data[:4096], data[-4096:]))
        if glance not in self._glances:
            if len(self._glances) >= _GLANCES_KEPT:
                self._glances.clear()
            self._glances.add(glance)
            return None
        path = folder / hashlib.sha256(data).hexdigest()
        if not path.is_file() or path.stat().st_size != len(data):
            return None
        files.sync_folder(folder)  # Whoever wrote it may have died before this.
        return path.name

    def restore_all(self, events: list[ExecutionEvent]) -> list[ExecutionEvent]:
        """The events, with the values that their rows hold markers of.

        Raises:
            CorruptedDatabaseError: A file is missing, or is not what was written.
            StoreError: A file cannot be read.
        """
        for event in events:
            if event.data is not None:
                event.data = self.restore(event.execution_id, event.data)
            if event.detail_data is not None:
                event.detail_data = self.restore(event.execution_id, event.detail_data)
        return events

    def restore(self, execution_id: str, data: bytes) -> bytes:
        """The bytes that `spill` gave these for.

        Raises:
            CorruptedDatabaseError: Their file is missing, or is not what was written.
            StoreError: It cannot be read.
        """
        if data[:2] != _PREFIX:
            return data
        path, digest = self._marked(execution_id, data)
        try:
            value = files.read(path)
        except FileNotFoundError:
            raise _damaged(execution_id, path, "is missing") from None
        except OSError as error:
            raise StoreError(
                f"{path}, which holds a value of execution {execution_id}, cannot be read: {error}. Make it a readable "
                "file, and work goes on"
            ) from error
        if hashlib.sha256(value).hexdigest() != digest:
            raise _damaged(execution_id, path, "is not what was written")
        return value

    def _spill_event(self, event: ExecutionEvent) -> ExecutionEvent:
        data, detail = event.data, event.detail_data
        stored = event.undecoded()
        stored.data = None if data is None else self.spill(event.execution_id, data)
        stored.detail_data = None if detail is None else self.spill(event.execution_id, detail)
        return stored

    def _marked(self, execution_id: str, marker: bytes) -> tuple[Path, str]:
        try:
            file = json.loads(marker[2:])["file"]
            found = _FILE.fullmatch(file)
        except (ValueError, TypeError, LookupError):
            found = None
        if found is None:
            raise _damaged(execution_id, self._folder, f"is where {marker[:200]!r} would lead, which is no file of it")
        return self._folder / found[0], found["digest"]


def _is_large(data: Any) -> bool:
    return isinstance(data, bytes) and len(data) > OVERFLOW_BYTES  # Other types are for the database to refuse.


def _is_large_event(event: ExecutionEvent) -> bool:
    return _is_large(event.data) or _is_large(event.detail_data)


def _has_large(append: Append) -> bool:
    for event in append.events:  # Every append comes through here, so what is cheap comes first.
        data, detail = event.data, event.detail_data
        if (type(data) is bytes and len(data) > OVERFLOW_BYTES) or (detail is not None and _is_large(detail)):
            return True
    return any(map(_has_large, append.children)) if append.children else False


def _damaged(execution_id: str, path: Path, what: str) -> CorruptedDatabaseError:
    return CorruptedDatabaseError(
        f"{path} {what}: it holds a value of execution {execution_id}, which cannot be read without it. Restore it "
        "from a backup; other executions are not affected"
    )
