"""The guard: what a body would do to the world is refused, and blocks its execution until the code is changed."""

import contextlib
import logging
import logging.handlers
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, task, workflow
from flux.errors import BodyError

acts: list[Any] = []


@task
async def act(what: str) -> str:
    acts.append(what)
    return what


def thread() -> None:
    threading.Thread(target=print).start()


IMPURE: dict[str, Callable[[], Any]] = {
    "open": lambda: open("x.txt", "w"),
    "append": lambda: open("x.txt", "ab"),
    "os.open": lambda: os.open("x.txt", os.O_WRONLY | os.O_CREAT),
    "write_text": lambda: Path("x.txt").write_text("x"),
    "mkdir": lambda: Path("x").mkdir(),
    "remove": lambda: os.remove("there.txt"),
    "rename": lambda: os.rename("there.txt", "elsewhere.txt"),
    "tempfile": lambda: tempfile.TemporaryFile(),
    "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    "getaddrinfo": lambda: socket.getaddrinfo("localhost", 80),
    "subprocess": lambda: subprocess.run(["true"], check=False),
    "system": lambda: os.system("true"),
    "sqlite": lambda: sqlite3.connect("x.db"),
}
if sys.version_info >= (3, 12):
    IMPURE["thread"] = thread
if sys.version_info >= (3, 13):
    IMPURE["sleep"] = lambda: time.sleep(0)


@pytest.fixture(autouse=True)
def there(home: Path) -> None:
    Path("there.txt").write_text("here")
    acts.clear()


@pytest.mark.parametrize("name", IMPURE)
def test_what_would_change_the_world_is_refused_with_the_line_and_the_fix(name: str) -> None:
    @workflow
    async def impure(ctx: ExecutionContext) -> str:
        await act("before")
        IMPURE[name]()
        return await act("after")

    with pytest.raises(BodyError, match=r"test_guard\.py:\d+.*do this in a @task"):
        impure.run(None, execution_id="x")
    assert acts == ["before"]
    assert sorted(os.listdir()) == [".flux", "there.txt"]


def test_a_body_that_swallows_the_refusal_goes_no_further() -> None:
    @workflow
    async def stubborn(ctx: ExecutionContext) -> str:
        with contextlib.suppress(Exception):
            open("x.txt", "w")
        return await act("after")

    with pytest.raises(BodyError, match=r"open\('x.txt'\)"):
        stubborn.run(None, execution_id="x")
    assert acts == []
    assert stubborn.execution("x").execution_id == "x"


def test_a_refused_execution_continues_when_the_code_is_changed() -> None:
    @workflow.with_options(name="mended", version="1")
    async def impure(ctx: ExecutionContext) -> str:
        first = await act("first")
        Path("x.txt").write_text(first)
        return first

    @workflow.with_options(name="mended", version="2")
    async def pure(ctx: ExecutionContext) -> str:
        first = await act("first")
        return first + await act("second")

    with pytest.raises(BodyError):
        impure.run(None, execution_id="x")
    assert pure.run(execution_id="x").output == "firstsecond"
    assert acts == ["first", "second"]


def test_what_changes_nothing_is_not_refused(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("rotating")
    log.propagate = False
    handler = logging.handlers.RotatingFileHandler("log.txt", maxBytes=10, backupCount=2, delay=True)
    log.addHandler(handler)
    Path("module_of_a_body.py").write_text("X = 5\n")
    sys.path.insert(0, os.getcwd())

    @workflow
    async def harmless(ctx: ExecutionContext) -> str:
        import module_of_a_body

        log.warning("a line that is longer than the file may be")
        log.warning("and another one")
        print("said", file=sys.stderr)
        with open(os.devnull, "w") as nothing:
            nothing.write("x")
        return Path("there.txt").read_text() + str(module_of_a_body.X)

    try:
        assert harmless.run().output == "here5"
    finally:
        handler.close()
        log.removeHandler(handler)
        sys.path.remove(os.getcwd())
        sys.modules.pop("module_of_a_body", None)


def test_tasks_and_other_threads_do_what_they_like_while_a_body_runs() -> None:
    @task
    async def writes() -> int:
        return Path("x.txt").write_text("by a task")

    @task
    def writes_in_a_thread() -> int:
        return Path("y.txt").write_text("by a thread")

    @workflow
    async def decides(ctx: ExecutionContext) -> int:
        return await writes() + await writes_in_a_thread()

    assert decides.run().output == 20


def test_the_guard_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """In a process of its own: an audit hook stays."""
    script = (
        "from pathlib import Path\nfrom flux import workflow\n@workflow\nasync def impure(ctx):\n"
        "    return Path('x.txt').write_text('x')\nprint(impure.run().output)\n"
    )
    Path("impure.py").write_text(script)
    off = subprocess.run(
        [sys.executable, "impure.py"], env={**os.environ, "FLUX_GUARD_BODIES": "no"}, capture_output=True, text=True
    )
    on = subprocess.run([sys.executable, "impure.py"], capture_output=True, text=True)

    assert (off.returncode, off.stdout) == (0, "1\n")
    assert on.returncode == 1
    assert "BodyError: open('x.txt')" in on.stderr
