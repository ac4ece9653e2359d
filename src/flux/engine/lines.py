"""Lines of the user's code, for messages: where a body runs at this moment, and where it is suspended."""

import asyncio
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

_OURS = frozenset({"asyncio", "contextlib", "flux"})
_STDLIB = str(Path(os.__file__).parent)  # As `sysconfig` says, which takes long to import.


def running_line() -> str:
    """The innermost line of the user's that is running now, as "file:line"; empty if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_users(frame):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if frame.f_globals.get("__name__") in {"flux.engine.runner", "flux.engine.replay"}:
            return ""  # Below it is whoever runs the host loop.
        frame = frame.f_back
    return ""


def suspended_line(task: "asyncio.Task[Any]") -> str:
    """The innermost line of the user's at which a task is suspended; empty if there is none."""
    coroutine: Any = task.get_coro()
    line = ""
    while coroutine is not None and (frame := getattr(coroutine, "cr_frame", None)) is not None:
        if _is_users(frame):
            line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        coroutine = coroutine.cr_await
    return line


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    if frame.f_globals.get("__name__", "").partition(".")[0] in _OURS or file.startswith("<"):
        return False
    return not file.startswith(_STDLIB) or "site-packages" in file  # Which may lie within.
