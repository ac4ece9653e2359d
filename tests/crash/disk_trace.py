"""What a process wrote to its disk, and the disk as a power cut could have left it at any moment of that.

A power cut loses any of the writes that were not synced, and may tear one at a sector.
"""

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crash.processes import HERE, SOURCE

SECTOR = 512
_CALLS = "pwrite64,write,fdatasync,fsync,ftruncate,unlink,rename"
_PATH = r"\d+<([^>]*)>"
_WRITE = re.compile(rf'pwrite64\({_PATH}, "([^"]*)", \d+, (\d+)\) = \d+')
_SYNC = re.compile(rf"f(?:data)?sync\({_PATH}\)\s+= 0")
_ACK = re.compile(rf'write\({_PATH}, "([^"]*)", \d+\)')
_CUT = re.compile(rf"ftruncate\({_PATH}, (\d+)\)\s+= 0")
_GONE = re.compile(r'unlink\("([^"]*)"\)\s+= 0')


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one file.

    Args:
        kind: "write", "sync", "truncate", "unlink", or "ack": a line that says what is durable.
        at: The offset of a write, or the size that a file is cut to.
    """

    kind: str
    path: str
    at: int = 0
    data: bytes = b""


class Disk:
    """The files as they are on the platter, and what is on its way there."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.acks: list[int] = []
        self._pending: dict[str, list[Operation]] = {}

    def do(self, operation: Operation) -> None:
        path = operation.path
        match operation.kind:
            case "ack":
                self.acks.append(int(operation.data))
            case "unlink":
                self.files.pop(path, None)
                self._pending.pop(path, None)
            case "sync":
                for pending in self._pending.pop(path, []):
                    self._apply(pending, len(pending.data))
            case _:
                self._pending.setdefault(path, []).append(operation)

    def lose_power(self, chance: random.Random) -> None:
        """Of what was not synced, nothing arrives, or any part of it."""
        if chance.random() < 0.5:
            return
        for operations in self._pending.values():
            for operation in operations:
                if chance.random() < 0.5:
                    is_torn = chance.random() < 0.3
                    size = len(operation.data)
                    self._apply(operation, chance.randrange(0, size + 1, SECTOR) if is_torn else size)

    def put_into(self, directory: Path) -> None:
        """Make the files; a shared-memory file does not outlive a restart."""
        for path, data in self.files.items():
            if not path.endswith("-shm"):
                target = directory / Path(path).name
                target.write_bytes(data)

    def _apply(self, operation: Operation, size: int) -> None:
        file = self.files.setdefault(operation.path, bytearray())
        if operation.kind == "truncate":
            del file[operation.at :]
            return
        end = operation.at + size
        file.extend(bytes(max(0, end - len(file))))
        file[operation.at : end] = operation.data[:size]


def record(program: str, directory: Path, *arguments: str) -> list[Operation]:
    """Run a program of this directory, and return what it did to the database in its directory."""
    log = directory / "trace"
    subprocess.run(
        ["strace", "-f", "-y", "-xx", "-s", "1000000", "-o", str(log), "-e", f"trace={_CALLS}"]
        + [sys.executable, str(HERE / program), *arguments],
        cwd=directory,
        env={"PYTHONPATH": f"{SOURCE}:{HERE.parent}", "PATH": "/usr/bin:/bin"},
        check=True,
        timeout=60,
    )
    with log.open() as lines:
        return [operation for line in lines for operation in _operations(line)]


def _operations(line: str) -> Iterator[Operation]:
    if match := _WRITE.search(line):
        yield Operation("write", _text(match[1]), int(match[3]), _bytes(match[2]))
    elif match := _SYNC.search(line):
        yield Operation("sync", _text(match[1]))
    elif match := _CUT.search(line):
        yield Operation("truncate", _text(match[1]), int(match[2]))
    elif match := _GONE.search(line):
        yield Operation("unlink", _text(match[1]))
    elif (match := _ACK.search(line)) and _text(match[1]).endswith("/acks"):
        yield Operation("ack", "", data=_bytes(match[2]))


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _text(shown: str) -> str:
    return _bytes(shown).decode() if shown.startswith("\\x") else shown
