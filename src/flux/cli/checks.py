"""What `flux doctor` looks at besides the database; this module is for versions, settings and the disk."""

import os
import platform
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from flux import __version__, settings
from flux.cli import output
from flux.errors import FluxError

OK, WARNING, PROBLEM = "ok", "warning", "problem"
MIB = 1 << 20
_MENDED = (3, 51, 3)  # Since then two connections may write and checkpoint a WAL at once.
_APPENDS, _SLOW_MS = 21, 25.0
_LITTLE, _TOO_LITTLE = 1024 * MIB, 64 * MIB


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, whether that is "ok", a "warning" or a "problem", what was found, and what to do about it."""

    name: str
    status: str
    text: str
    advice: str = ""


def checks() -> Iterator[Check]:
    """Everything, one after the other."""
    yield from _versions()
    try:
        database = settings.load().database
    except FluxError as error:
        yield Check("settings", PROBLEM, str(error))
        return
    from flux.cli.database_checks import check_database, check_secrets

    yield _settings()
    for check in (check_database, _disk, check_secrets):
        yield from _guarded(check, database)


def _guarded(check: Callable[[Path], Iterator[Check]], database: Path) -> Iterator[Check]:
    """The checks of one subject, as far as they come."""
    try:
        yield from check(database)
    except OSError as error:
        text = f"{error.filename or database} cannot be used: {error.strerror or error}"
        yield Check("access", PROBLEM, text, "see that its folder is there, and that this user may use it")


def _versions() -> Iterator[Check]:
    yield Check("versions", OK, f"flux {__version__}, Python {platform.python_version()}, {platform.platform()}")
    text = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < _MENDED:
        text += "; before 3.51.3 two writers at once can damage a database: the file lock that every process of Flux "
        text += "takes prevents that, so let no other program write to it"
    yield Check("sqlite", OK, text)


def _settings() -> Check:
    """The settings that are not the default, and where they come from."""
    project, own = settings._pyproject(Path("pyproject.toml")), settings._toml(Path("flux.toml"))
    loaded, shown = settings.load(), []
    for name in (field.name for field in fields(loaded)):
        variable = f"FLUX_{name.upper()}"
        option = "--database" if name == "database" and output.named_database else variable
        places = {option: os.environ.get(variable), "flux.toml": own.get(name), "pyproject.toml": project.get(name)}
        if place := next((place for place, value in places.items() if value not in {None, ""}), None):
            shown.append(f"{name} = {getattr(loaded, name)} ({place})")
    return Check("settings", OK, ", ".join(shown) or "the defaults")


def _disk(database: Path) -> Iterator[Check]:
    """What room the database's disk has, and how fast it brings data to safety."""
    folder = next(each for each in database.parents if each.is_dir())
    free = shutil.disk_usage(folder).free
    status = PROBLEM if free < _TOO_LITTLE else WARNING if free < _LITTLE else OK
    advice = "" if status == OK else "make room: when it is used up, nothing can be recorded"
    yield Check("free space", status, f"{free / MIB:,.0f} MiB free in {folder}", advice)
    times = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(_APPENDS):
            began = time.perf_counter()
            file.write(b"\0" * 4096)
            os.fsync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    took = statistics.median(times)
    text = f"a synced write of 4 KiB takes {took:.2f} ms: {1000 / max(took, 0.001):,.0f} commits/s"
    advice = "" if took < _SLOW_MS else "each effect of a workflow waits for one: use a faster local disk"
    yield Check("disk speed", WARNING if advice else OK, text, advice)
