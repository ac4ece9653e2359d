"""What `flux doctor` looks at in a database and in the keys of its secrets; this module changes nothing there."""

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from flux.cli.checks import MIB, OK, PROBLEM, WARNING, Check
from flux.cli.output import command
from flux.cli.reading import connect
from flux.errors import SecretError
from flux.ports import SealedSecret
from flux.secret_managers import KeyRing
from flux.secret_managers.manager import outside
from flux.secret_managers.sealing import open_sealed
from flux.store.file_lock import is_held
from flux.store.migrate import migration_scripts

_LOCK_SECONDS = 1.0
_LARGE_WAL = 64 * MIB
_STATES = "SELECT lower(state), count(*), count(blocked_reason) FROM executions GROUP BY state ORDER BY state"


def check_database(path: Path) -> Iterator[Check]:
    """The file, what is in it, and whether it can be written to.

    Raises:
        OSError: It cannot be looked at.
    """
    if not _is_there(path):
        yield Check("database", OK, f"there is none yet at {path}: the first 'flux run' makes it")
        return
    lock = path.with_name(f"{path.name}.lock")
    for each in (path.parent, path, lock):
        if _is_there(each) and not os.access(each, os.R_OK | os.W_OK | (os.X_OK if each == path.parent else 0)):
            yield Check("access", PROBLEM, f"{each} cannot be written to", "nothing can run here until this user may")
    yield _lock(lock)
    try:
        with connect(path) as connection:
            yield from _content(path, connection)
    except sqlite3.Error as error:
        advice = "restore a backup if it is damaged; else see that it is a file, that this user may read it and its "
        advice += "folder, and that no other program holds it"
        yield Check("database", PROBLEM, f"{path} cannot be read: {error}", advice)


def _is_there(path: Path) -> bool:
    try:
        return path.stat() is not None
    except FileNotFoundError:
        return False


def _lock(lock: Path) -> Check:
    deadline = time.monotonic() + _LOCK_SECONDS
    while is_held(lock):  # Each commit holds it for a moment.
        if time.monotonic() > deadline:
            text = f"{lock} has been held for {_LOCK_SECONDS:.0f} s{_holder(lock)}, and nobody else can write"
            return Check("lock", PROBLEM, text, "continue that process if it is stopped, or end it")
        time.sleep(0.005)
    return Check("lock", OK, f"{lock} is free")


def _holder(lock: Path) -> str:
    """Who holds a lock, where the system tells."""
    try:
        inode, lines = lock.stat().st_ino, Path("/proc/locks").read_text("ascii").splitlines()
        pid = next(line.split()[4] for line in lines if " FLOCK " in line and f":{inode} " in line)
        return f" by process {pid} ({Path('/proc', pid, 'comm').read_text('utf-8').strip()})"
    except (OSError, StopIteration):
        return ""


def _content(path: Path, connection: sqlite3.Connection) -> Iterator[Check]:
    wal = path.with_name(f"{path.name}-wal")
    wal_size = wal.stat().st_size if _is_there(wal) else 0
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        with connect(path) as again:  # Somebody may have written meanwhile.
            (found,) = again.execute("PRAGMA quick_check(1)").fetchone()
    text = f"{path}, {path.stat().st_size / MIB:,.1f} MiB and {wal_size / MIB:,.1f} MiB of log"
    (version,), known = connection.execute("PRAGMA user_version").fetchone(), len(migration_scripts())
    if found != "ok":
        advice = "restore a backup, or save what can be read with 'sqlite3 FILE .recover'"
        yield Check("database", PROBLEM, f"{text}, is damaged: {found}", advice)
    elif version > known:
        text += f", has schema {version}, and this Flux knows up to {known}: a newer Flux wrote it"
        yield Check("database", PROBLEM, text, "run that version, or a later one")
    else:
        is_large = wal_size > _LARGE_WAL
        advice = "something keeps the log from being written back: end what reads for long" if is_large else ""
        older = f" of {known}, which the next command brings up to date" if version < known else ""
        yield Check("database", WARNING if is_large else OK, f"{text}, sound, schema {version}{older}", advice)
        if version:
            yield _executions(connection)
            yield _workers(path, connection)


def _executions(connection: sqlite3.Connection) -> Check:
    rows = connection.execute(_STATES).fetchall()
    text = ", ".join(f"{count:,} {state}" for state, count, _ in rows) or "none"
    if blocked := sum(each for _, _, each in rows):
        advice = f"{command('executions', 'list')} marks them, {command('executions', 'show', 'ID')} says why"
        return Check("executions", WARNING, f"{text}; {blocked:,} blocked", advice)
    return Check("executions", OK, text)


def _workers(path: Path, connection: sqlite3.Connection) -> Check:
    now_us = time.time_ns() // 1000
    workers = connection.execute("SELECT worker, lease_expires_at FROM workers").fetchall()
    alive = {name for name, until in workers if until > now_us and is_held(path.parent / "workers" / f"{name}.lock")}
    owners = connection.execute("SELECT worker FROM executions WHERE state = 'RUNNING'").fetchall()
    text = f"{len(alive)} alive, {len(workers) - len(alive)} dead"
    if left := sum(owner not in alive for (owner,) in owners):
        text += f", which left {left} {'execution' if left == 1 else 'executions'} interrupted"
        return Check("workers", WARNING, text, f"continue each with  {command('run', 'FILE', '--id', 'ID')}")
    return Check("workers", OK, text)


def check_secrets(path: Path) -> Iterator[Check]:
    """The keys, and whether they open every secret."""
    ring, stored = KeyRing(), []
    try:
        with connect(path) as connection:
            records = connection.execute("SELECT name, version, key_id, data, updated_at FROM secrets")
            stored = [SealedSecret(*record) for record in records]
    except sqlite3.Error:
        pass  # There are none, or `check_database` says what is wrong.
    try:
        keys, place, given = ring.all(), ring.path, outside(os.environ)
        for secret in stored:
            open_sealed(secret, ring)
    except SecretError as error:
        yield Check("secrets", PROBLEM, str(error))
        return
    text = f"{len(stored)} in the database, {len(given)} in the environment and in files; "
    text += f"{len(keys)} {'key' if len(keys) == 1 else 'keys'} in {place or 'FLUX_SECRET_KEYS'}"
    if keys and place is not None and place.parent.resolve() == path.parent.resolve():
        advice = "move them away, and name their file in FLUX_SECRET_KEY_FILE: who copies that folder has both"
        yield Check("secrets", WARNING, f"{text}, beside the database", advice)
    else:
        yield Check("secrets", OK, text if keys else f"{text}: the first secret makes one")
