"""Settings: a flag wins over `FLUX_*`, that over `flux.toml`, that over `[tool.flux]` of pyproject.toml."""

import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from flux.errors import InvalidInputError


class Durability(StrEnum):
    """What a commit that was answered survives."""

    FULL = "full"
    PROCESS = "process"


class LogFormat(StrEnum):
    """How a record is written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """How bad a record is."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set.

    Each field `x` is `FLUX_X` in the environment and `x` in the files; durations are seconds.

    Args:
        database: The SQLite database, relative to the working directory.
        durability: What a commit survives: everything, or the death of processes, but not that of the machine.
        lease_seconds: How long a silent process keeps its executions.
        cancel_grace_seconds: How long a cancelled call may clean up.
        unload_after_seconds: A longer wait for a timer unloads the execution meanwhile.
        store_patience_seconds: How long a failing disk is tried before the error is shown.
        history_limit_events: An execution with a longer history fails; from 10,000 on it is warned of.
        guard_bodies: Refuse what a body would do to files, sockets and processes.
        max_body_bytes: The largest body of a request that a server takes.
        server_names: Under which a server may be addressed besides its own, separated by commas.
        replay_each_step: Replay the body after every step, to prove that it can be (tests).
        keep_output: Keep what tasks print and log of runs in this process, too, as servers do of theirs.
        log_format: Of what servers and workers log.
        log_level: What they log: this and worse.
    """

    database: Path = Path(".flux/flux.db")
    durability: Durability = Durability.FULL
    lease_seconds: float = 10.0
    cancel_grace_seconds: float = 5.0
    unload_after_seconds: float = 10.0
    store_patience_seconds: float = 30.0
    history_limit_events: int = 500_000
    guard_bodies: bool = True
    max_body_bytes: int = 4 * 1024 * 1024
    server_names: str = ""
    replay_each_step: bool = False
    keep_output: bool = False
    log_format: LogFormat = LogFormat.TEXT
    log_level: LogLevel = LogLevel.INFO


def load(directory: Path | None = None, **flags: Any) -> Settings:
    """Read the settings of a working directory.

    Args:
        directory: Where `flux.toml` and `pyproject.toml` are looked for; the working directory by default.
        flags: What a command line set; None values count as not given.

    Raises:
        InvalidInputError: A file cannot be read, or a value does not fit; says which.
    """
    directory = directory or _working_directory()
    values: dict[str, Any] = {**_pyproject(directory / "pyproject.toml"), **_toml(directory / "flux.toml")}
    known = {field.name: field.default for field in fields(Settings)}
    values.update({name: text for name in known if (text := os.environ.get(f"FLUX_{name.upper()}"))})
    values.update({name: value for name, value in flags.items() if value is not None})
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InvalidInputError(f"there is no setting {unknown[0]!r}: the settings are {', '.join(known)}")
    read = {name: _read(name, value, type(known[name])) for name, value in values.items()}
    settings = Settings(**read)
    return replace(settings, database=directory / settings.database)


def place() -> tuple[object, ...]:
    """What decides which database is meant: equal as long as that is the same."""
    try:
        directory = os.getcwd()  # noqa: PTH109 - a Path costs more than all the rest.
    except FileNotFoundError:
        directory = ""
    return directory, os.environb.get(b"FLUX_DATABASE"), _changed("flux.toml"), _changed("pyproject.toml")


def _changed(file: str) -> int:
    """When a file of the working directory was changed."""
    try:
        return os.stat(file).st_mtime_ns  # noqa: PTH116 - as above.
    except OSError:
        return 0


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise InvalidInputError("the working directory was deleted: change to one that exists") from None


def _read(name: str, value: Any, kind: type) -> Any:
    try:
        return _READERS[kind](value)
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"the setting {name} is {value!r}, which is not {_WANTED[kind]}: it is read from FLUX_{name.upper()}, "
            "flux.toml or [tool.flux] of pyproject.toml"
        ) from None


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 <= seconds < float("inf"):
        raise ValueError
    return seconds


def _switch(value: Any) -> bool:
    switches = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        return switches[str(value).lower()]
    except KeyError:
        raise ValueError from None


def _count(value: Any) -> int:
    count = int(value)
    if count < 1 or count != float(value):
        raise ValueError
    return count


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


_READERS: dict[type, Callable[[Any], Any]] = {
    float: _seconds,
    int: _count,
    bool: _switch,
    str: _text,
    type(Path()): Path,
    Durability: lambda value: Durability(str(value).lower()),
    LogFormat: lambda value: LogFormat(str(value).lower()),
    LogLevel: lambda value: LogLevel(str(value).lower()),
}
_WANTED: dict[type, str] = {
    float: "a number of seconds from 0",
    int: "a whole number from 1",
    bool: "true or false",
    str: "a text",
    type(Path()): "a path",
    Durability: "full or process",
    LogFormat: "text or json",
    LogLevel: "debug, info, warning or error",
}


def _pyproject(path: Path) -> dict[str, Any]:
    flux = _toml(path).get("tool", {}).get("flux", {})
    return flux if isinstance(flux, dict) else {}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path.name} cannot be read: {error}; mend it, or move it away") from None
