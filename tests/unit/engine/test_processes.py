"""Child processes: what comes back, what is refused, and that none is left over."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import flux
from flux import serde
from flux.engine.processes import Processes
from flux.errors import BodyError, ExecutionError, UnserializableValue

SOURCE = str(Path(flux.__file__).parent.parent)
PATIENCE_SECONDS = 30.0


@pytest.fixture
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.close()


class Refusal(Exception):
    pass


@dataclass
class Order:
    number: int


def call(processes: Processes, func: Callable[..., Any], **named: Any) -> Any:
    return asyncio.run(asyncio.wait_for(processes.run(func, named), PATIENCE_SECONDS))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """No such process, not even a zombie that this process should have cleared away."""
    return not Path(f"/proc/{pid}").exists()


# -- what runs there


def add(a: int, b: int = 2, *more: int, metadata: int = 0) -> int:
    return a + b + sum(more) + metadata


async def add_later(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


def where() -> tuple[int, int, bool]:
    return os.getpid(), os.getpgid(0), os.isatty(0)


def echo(value: Any) -> Any:
    return value


def apply(function: Any, value: Any) -> Any:
    return function(value)


def refuse(text: str) -> None:
    raise Refusal(text)


async def refuse_later(text: str) -> None:
    raise Refusal(text)


def leave() -> None:
    sys.exit(3)


def end(code: int) -> None:
    os._exit(code)


def crash() -> None:
    sys.stderr = None
    os.close(2)
    ctypes.string_at(0)


def text_of(length: int) -> str:
    return "x" * length


def opened() -> Any:
    return sys.stdin


def close_stdin(value: int) -> int:
    os.close(0)
    return value


def hang(pids: str) -> None:
    with subprocess.Popen(["sleep", "1000"]) as grandchild:
        Path(pids + ".new").write_text(f"{os.getpid()} {grandchild.pid}")
        Path(pids + ".new").rename(pids)


def meet(directory: str, count: int) -> int:
    (Path(directory) / str(os.getpid())).touch()
    until(lambda: len(os.listdir(directory)) >= count)
    return os.getpid()


def launched() -> list[str]:
    return [Path("/proc/self/cmdline").read_text(), Path("/proc/self/environ").read_text()]


def leaked(secret: str) -> bool:
    return any(secret in text for text in launched())


@flux.task
async def other() -> int:
    return 1


@flux.workflow
async def flow(ctx: flux.ExecutionContext[int]) -> None:
    pass


def call_task() -> Any:
    return asyncio.run(other())  # type: ignore[arg-type]


def run_workflow() -> Any:
    return flow.run(1)


@flux.task
def tasked(x: int) -> int:
    return x + 1


# -- values and errors


@pytest.mark.parametrize("func", [add, add_later])
def test_a_result_comes_back_from_another_process(processes: Processes, func: Any) -> None:
    assert call(processes, func, a=1, b=5) == 6


def test_arguments_reach_the_parameters_that_they_are_named_by(processes: Processes) -> None:
    assert call(processes, add, a=1) == 3
    assert call(processes, add, metadata=100, a=1, b=1, more=(1, 1)) == 104


def test_the_function_of_a_task_is_found_under_the_name_of_the_task(processes: Processes) -> None:
    assert call(processes, tasked.func, x=1) == 2


def test_values_arrive_as_they_are(processes: Processes) -> None:
    value = {"order": Order(5), "parts": (1, {2}), "error": None}

    assert call(processes, echo, value=value) == value
    assert call(processes, apply, function=add, value=5) == 7


@pytest.mark.parametrize("func", [refuse, refuse_later])
def test_an_error_is_of_its_class_and_has_the_traceback_of_the_child(processes: Processes, func: Any) -> None:
    with pytest.raises(Refusal) as caught:
        call(processes, func, text="no")

    assert type(caught.value) is Refusal and caught.value.args == ("no",)
    assert "raise Refusal(text)" in serde.traceback_of(caught.value)
    assert "asyncio" not in serde.traceback_of(caught.value)


def test_a_result_that_cannot_be_handed_over_is_refused(processes: Processes) -> None:
    with pytest.raises(UnserializableValue, match="TextIOWrapper"):
        call(processes, opened)


def test_100_megabytes_come_back(processes: Processes) -> None:
    assert len(call(processes, text_of, length=100_000_000)) == 100_000_000


# -- what is refused before anything starts


def outer() -> Any:
    def inner() -> None:
        pass

    return inner


@pytest.mark.parametrize("func", [lambda: 1, outer(), Refusal.with_traceback, print])
def test_a_function_that_another_process_would_not_find_is_refused(processes: Processes, func: Any) -> None:
    with pytest.raises(UnserializableValue, match="cannot be run with executor='process'"):
        call(processes, func)
    assert not processes._children


@pytest.mark.parametrize("value", [lambda: 1, [lambda: 1], Order(1).__eq__])
def test_a_function_as_an_argument_must_be_found_too(processes: Processes, value: Any) -> None:
    with pytest.raises(UnserializableValue, match="would not find"):
        call(processes, echo, value=value)


@pytest.mark.parametrize("func", [call_task, run_workflow])
def test_calling_flux_inside_is_refused_with_the_fix(processes: Processes, func: Any) -> None:
    with pytest.raises(BodyError, match="cannot call other tasks.*body of the workflow"):
        call(processes, func)


# -- ends


@pytest.mark.parametrize(
    ("func", "named", "text"),
    [(end, {"code": 3}, "exit code 3"), (crash, {}, "SIGSEGV")],
    ids=["os._exit", "a segmentation fault"],
)
def test_a_death_says_how_and_the_next_call_has_a_fresh_child(
    processes: Processes, func: Any, named: Any, text: str
) -> None:
    with pytest.raises(ExecutionError, match=text):
        call(processes, func, **named)
    assert call(processes, add, a=1) == 3


def test_sys_exit_is_an_error_of_the_task(processes: Processes) -> None:
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        call(processes, leave)


def test_a_child_without_stdin_answers(processes: Processes) -> None:
    assert [call(processes, close_stdin, value=1), call(processes, add, a=1)] == [1, 3]


def test_a_cancelled_call_leaves_neither_its_process_nor_what_that_started(
    processes: Processes, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"

    async def main() -> list[bool]:
        task = asyncio.ensure_future(processes.run(hang, {"pids": str(pids)}))
        while not pids.exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [is_gone(int(pids.read_text().split()[0]))]

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE_SECONDS)) == [True]
    grandchild = Path(f"/proc/{pids.read_text().split()[1]}/stat")
    until(lambda: not grandchild.exists() or grandchild.read_text().split()[2] == "Z")


def test_a_call_that_is_cancelled_in_the_queue_starts_nothing(tmp_path: Path) -> None:
    processes = Processes(1)

    async def main() -> None:
        pids = tmp_path / "pids"
        first = asyncio.ensure_future(processes.run(hang, {"pids": str(pids)}))
        while not pids.exists():
            await asyncio.sleep(0.01)
        second = asyncio.ensure_future(processes.run(add, {"a": 1}))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        assert len(processes._children) == 1
        first.cancel()
        await asyncio.wait([first])

    asyncio.run(asyncio.wait_for(main(), PATIENCE_SECONDS))
    assert not processes._children


def test_four_run_at_once(processes: Processes, tmp_path: Path) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(processes.run(meet, {"directory": str(tmp_path), "count": 4}) for _ in range(4)))

    assert len(set(asyncio.run(asyncio.wait_for(main(), PATIENCE_SECONDS)))) == 4


def test_a_child_is_used_again_and_is_a_session_of_its_own(processes: Processes) -> None:
    first, again = call(processes, where), call(processes, where)

    assert first == again
    assert first[1] == first[0] != os.getpgid(0)


def test_a_child_that_died_while_idle_is_not_used(processes: Processes) -> None:
    pid = call(processes, where)[0]
    os.kill(pid, signal.SIGKILL)
    until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1)

    assert call(processes, where)[0] != pid
    assert is_gone(pid)


def test_a_changed_environment_has_a_new_child(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = call(processes, where)[0]
    monkeypatch.setenv("SOMETHING", "else")

    assert call(processes, where)[0] != pid
    assert is_gone(pid)


def test_an_idle_child_is_ended() -> None:
    processes = Processes(idle_seconds=0.01)
    pid = call(processes, where)[0]

    until(lambda: is_gone(pid))


def test_arguments_are_not_shown_by_the_process(processes: Processes) -> None:
    assert call(processes, leaked, secret="correct-horse") is False


# -- scripts and packages


def run_script(directory: Path, text: str, *command: str) -> "subprocess.Popen[str]":
    file = directory / "script.py"
    file.write_text(textwrap.dedent(text))
    return subprocess.Popen(
        [sys.executable, "-W", "error", *(command or [str(file)])],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


UNGUARDED = """
import asyncio, os, sys
from dataclasses import dataclass
from flux import ExecutionContext, task, workflow
from flux.engine.processes import Processes

class Broken(Exception): pass

@dataclass
class Order:
    number: int

def next_of(order):
    if order.number < 0: raise Broken("below zero")
    return Order(order.number + 1)

@workflow
async def flow(ctx: ExecutionContext[int]): return ctx.input

print(flow.run(5).output)
"""


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    text = UNGUARDED + textwrap.dedent(
        """
        print(asyncio.run(Processes().run(next_of, {"order": Order(1)})))
        try: asyncio.run(Processes().run(next_of, {"order": Order(-1)}))
        except Broken as error: print(type(error) is Broken, error)
        """
    )
    with run_script(tmp_path, text) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)

    assert (out, err) == ("5\nOrder(number=2)\nTrue below zero\n", "")


@pytest.mark.parametrize("how", ["imported", "run by python -m"])
def test_a_function_of_a_package_is_found(tmp_path: Path, how: str) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text("from dataclasses import dataclass\n@dataclass\nclass Price:\n    cents: int\n")
    (package / "work.py").write_text("def double(price):\n    price.cents *= 2\n    return price\n")
    (package / "tool.py").write_text(
        "from .models import Price\nfrom .work import double\nimport asyncio\n"
        "from flux.engine.processes import Processes\n"
        "def one_more(price):\n    return Price(price.cents + 1)\n"
        "def main():\n"
        "    for func in (double, one_more):\n"
        "        print(asyncio.run(Processes().run(func, {'price': Price(5)})))\n"
        "if __name__ == '__main__': main()\n"
    )
    command = ["-c", "from shop.tool import main; main()"] if how == "imported" else ["-m", "shop.tool"]
    with run_script(tmp_path, "", *command) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)

    assert (out, err) == ("Price(cents=10)\nPrice(cents=6)\n", "")


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    text = UNGUARDED.replace("import asyncio", "import asyncio, time") + textwrap.dedent(
        """
        def stay(path):
            with open(path, "w") as file: file.write(str(os.getpid()))
            os.rename(path, path + ".done")
            time.sleep(1000)
        if __name__ == "__main__":
            asyncio.run(Processes().run(stay, {"path": "pid"}))
        """
    )
    text = text.replace("print(flow.run(5).output)", "")
    with run_script(tmp_path, text) as process:
        until((tmp_path / "pid.done").exists)
        process.kill()
        pid = int((tmp_path / "pid.done").read_text())
        stat = Path(f"/proc/{pid}/stat")
        until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z")
