"""A lock between processes that the operating system frees when its holder dies, however it dies."""

import fcntl
import os
import time
from pathlib import Path
from weakref import WeakSet

_POLL_SECONDS = 0.0002


class FileLock:
    """An exclusive `flock` on a file of its own; the file's content means nothing.

    A forked child inherits the descriptor, and with it the lock.  There it is closed, never unlocked: LOCK_UN
    would take the lock from the parent too.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        _open_locks.add(self)

    def acquire(self, *, seconds: float) -> bool:
        """Take the lock, waiting so long at most; False if somebody else still holds it then.

        It polls, since a blocking `flock` knows no timeout, and a stopped process may hold the lock for ever.
        """
        if self.try_acquire():
            return True
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            if self.try_acquire():
                return True
        return False

    def try_acquire(self) -> bool:
        """Take the lock if it is free at this moment."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let others take the lock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, which frees the lock unless a forked process still has it open; harmless when repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether any process, this one included, holds the lock of that file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


_open_locks: WeakSet[FileLock] = WeakSet()


def _close_inherited() -> None:
    for lock in tuple(_open_locks):
        lock.close()


os.register_at_fork(after_in_child=_close_inherited)
