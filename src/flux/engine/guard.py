"""Refuses what a body would do to the world: files, sockets, processes, threads.

An audit hook sees these things wherever they are done, and looks whether the loop that runs on its thread is one of a
body.  Clock and chance have no audit events: `flux lint` looks for them.
"""

import os
import sys
from asyncio import events as asyncio_events
from types import FrameType
from typing import Any

from flux.engine.lines import running_line
from flux.engine.loop import BodyLoop
from flux.errors import BodyError

_REFUSED = frozenset(
    "open os.chmod os.chown os.exec os.fork os.forkpty os.kill os.link os.mkdir os.posix_spawn os.remove os.rename "
    "os.rmdir os.symlink os.system os.truncate os.utime shutil.rmtree socket.bind socket.connect socket.getaddrinfo "
    "socket.gethostbyname socket.sendto sqlite3.connect subprocess.Popen time.sleep _thread.start_new_thread "
    "_thread.start_joinable_thread".split()
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
_WAYS_OUT = (
    "A body runs again at every replay, so it only decides: do this in a @task, and await that in the body. The "
    "execution is blocked, and continues when the code is changed"
)
_is_installed = False


def install() -> None:
    """Watch over the bodies of this process from now on; harmless when repeated.  Python removes no audit hook."""
    global _is_installed  # noqa: PLW0603 - of this process.
    if not _is_installed:
        _is_installed = True
        sys.addaudithook(_refuse_in_body)


def _refuse_in_body(event: str, args: tuple[Any, ...]) -> None:
    """Called for every audit event of the process, so what is cheap comes first."""
    if event not in _REFUSED:
        return
    loop = asyncio_events._get_running_loop()
    if not isinstance(loop, BodyLoop) or (event == "open" and not _writes(*args)) or _is_of_python(sys._getframe(1)):
        return
    what = f"{event}({args[0]!r})" if event == "open" else event
    error = BodyError(f"{what} in the body of a workflow, at {running_line() or 'an unknown line'}. {_WAYS_OUT}")
    if not loop.is_unloading:
        loop.impurity = loop.impurity or error  # The body may swallow it.
    raise error


def _writes(path: Any, mode: str | None, flags: int) -> bool:
    is_writing = bool(flags & _WRITING) if mode is None else any(letter in mode for letter in "wax+")
    return is_writing and path != os.devnull


def _is_of_python(frame: FrameType | None) -> bool:
    """Whether Python itself does it: an import that keeps its bytecode, or a log that the body writes to."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name == "importlib._bootstrap_external" and frame.f_code.co_name in {"set_data", "_write_atomic"}:
            return True
        if name.partition(".")[0] == "logging":
            return True
        if name == "flux.engine.loop":
            return False
        frame = frame.f_back
    return False
