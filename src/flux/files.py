"""Files that are there whole or not at all, whatever happens; this module is for values kept outside the database."""

import fcntl
import hashlib
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_READABLE_LETTERS = 80


def name_for(text: str) -> str:
    """A file name for any text: what of it is harmless, for people; a digest of it all, so that no two share one."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", text)[:_READABLE_LETTERS].lstrip(".-")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{readable or '_'}-{digest[:32]}"


def write(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Make or replace a file: on return it is on the disk, and until then nobody sees a part of it.

    Its folder is made when missing.  A crash may leave a file behind whose name begins with `.new-`.

    Raises:
        OSError: It cannot be written; a file that was there before is as it was.
    """
    _write(path.parent, data, lambda: path.name, mode)


def write_by_content(folder: Path, data: bytes) -> str:
    """As `write`, to a file that is named by the SHA-256 of the data, which is computed while the disk writes.

    Returns:
        Its name.

    Raises:
        OSError: It cannot be written.
    """
    digest = hashlib.sha256()
    hashing = threading.Thread(target=digest.update, args=(data,), name="flux-hash")
    hashing.start()

    def name() -> str:
        hashing.join()
        return digest.hexdigest()

    return _write(folder, data, name, 0o666)


def _write(folder: Path, data: bytes, name: Callable[[], str], mode: int) -> str:
    make_folder(folder)
    new = folder / f".new-{secrets.token_hex(8)}"
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(data)
            file.flush()
            sync(file.fileno())
        path = folder / name()
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    sync_folder(folder)
    return path.name


def read(path: Path) -> bytes:
    """The whole of a file, which is not a symbolic link: those may lead anywhere.

    Raises:
        FileNotFoundError: There is none.
        OSError: It cannot be read, or is a symbolic link.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        return file.read()


def make_folder(path: Path) -> None:
    """Make a folder and those above it, as durably as what will be in it.

    Raises:
        OSError: It cannot be made.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk.

    Raises:
        OSError: It is not certain that they are there.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Bring what was written to an open file to the disk.

    Raises:
        OSError: It is not certain that it is there.
    """
    if sys.platform == "darwin":  # There, fsync hands the data to the drive, which may forget it.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)
