"""Settings: a flag wins over `FLUX_*`, that over `flux.toml`, that over `[tool.flux]` of pyproject.toml."""

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flux.errors import InvalidInputError


class Settings(BaseModel):
    """Everything that can be set.

    Each field `x` is `FLUX_X` in the environment and `x` in the files; durations are seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    database: Path = Field(Path(".flux/flux.db"), description="The SQLite database, relative to the working directory.")
    lease_seconds: float = Field(10.0, gt=0.1, description="How long a silent process keeps its executions.")
    cancel_grace_seconds: float = Field(5.0, ge=0, description="How long a cancelled call may clean up.")
    unload_after_seconds: float = Field(10.0, ge=0, description="A longer wait for a timer unloads the execution.")
    store_patience_seconds: float = Field(30.0, ge=0, description="How long a failing disk is tried before giving up.")
    replay_each_step: bool = Field(False, description="Replay the body after every step, to prove that it can be.")


def load(directory: Path | None = None, **flags: Any) -> Settings:
    """Read the settings of a working directory.

    Args:
        directory: Where `flux.toml` and `pyproject.toml` are looked for; the working directory by default.
        flags: What a command line set; None values count as not given.

    Raises:
        InvalidInputError: A file cannot be read, or a value does not fit; says which.
    """
    directory = directory or Path.cwd()
    values: dict[str, Any] = {**_pyproject(directory / "pyproject.toml"), **_toml(directory / "flux.toml")}
    for name in Settings.model_fields:
        text = os.environ.get(f"FLUX_{name.upper()}")
        if text:
            values[name] = text
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        settings = Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InvalidInputError(
            f"the setting {name!r} does not fit: {first['msg']}; it is read from FLUX_{name.upper()}, flux.toml or "
            "[tool.flux] of pyproject.toml"
        ) from None
    return settings.model_copy(update={"database": directory / settings.database})


def _pyproject(path: Path) -> dict[str, Any]:
    tool = _toml(path).get("tool", {})
    flux = tool.get("flux", {})
    return flux if isinstance(flux, dict) else {}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path.name} cannot be read: {error}; mend it, or move it away") from None
