"""Crashes for real: a process on a SQLite file, killed with SIGKILL at a durable write and continued by another."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flux import serde
from flux.engine import frames
from flux.errors import FluxError, InvalidValueError
from flux.store.sqlite import SqliteStore
from flux.testing import fakes, victim
from flux.testing.differences import Course, Difference, Survival, ending_of
from flux.testing.ledger import effects_of, parsed
from flux.testing.scenario import Scenario
from flux.workflow import check_input

CLOSE_SECONDS = 5
_PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from flux.testing.victim import main; main()"


@dataclass(frozen=True, slots=True)
class Kill:
    """Before or after which write, counted from 1, a process is killed."""

    write: int
    side: str
    text: str
    line: str


class Killing:
    """Crashes a scenario for real.

    One child has the workflow's module loaded; of that it forks a process for each run.

    Raises:
        InvalidValueError: The child would not find the workflow, or there are fakes, which it would not have.
        FluxError: The child cannot load it.
    """

    def __init__(self, scenario: Scenario) -> None:
        definition = scenario.workflow.definition
        module = sys.modules.get(definition.func.__module__)
        if module is None or not any(each is scenario.workflow for each in vars(module).values()):
            raise InvalidValueError(
                f"another process would not find the workflow {definition.name!r}: keep it in a variable at the top of "
                "a module, or leave out real=True"
            )
        if fakes.active:
            raise InvalidValueError(f"fakes have no effect in another process: take out {fakes.active}, or real=True")
        name = Path(str(module.__file__)).stem if module is sys.modules["__main__"] else module.__name__
        value = check_input(definition, scenario.input)
        order = serde.encode({"module": name, "file": module.__file__, "workflow": definition.name})
        self._folder = TemporaryDirectory(prefix="flux-crash-")
        self._start(order, serde.encode((value, dict(scenario.resumes), list(scenario.signals))))

    def _start(self, *orders: bytes) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this very Python.
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *(path or str(Path.cwd()) for path in sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
            self._channel = ours.detach()
        try:
            self._ask(*orders)
        except FluxError:
            self.close()
            raise

    def learn(self) -> Sequence[Kill]:
        folder = self._made("whole")
        self._run(folder, log="writes")
        self._course = _course(folder)
        writes = [serde.decode(line) for line in (folder / "writes").read_bytes().splitlines()]
        self._kills = [
            Kill(number, side, f"right {side} {text}", line)
            for number, (text, line) in enumerate(writes, 1)
            for side in ("before", "after")
        ]
        return self._kills

    def survivals(self) -> Iterator[Survival]:
        return map(self._survive, self._kills)

    def close(self) -> None:
        os.close(self._channel)  # That ends it.
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _survive(self, kill: Kill) -> Survival:
        folder = self._made(f"{kill.write}-{kill.side}")
        self._run(folder, write=kill.write, side=kill.side)
        try:
            self._run(folder)
        except FluxError as error:
            return Survival([Difference(f"it cannot be continued: {error}")])
        return self._course.compare(_course(folder), lambda _: ())

    def _made(self, name: str) -> Path:
        folder = Path(self._folder.name) / name
        folder.mkdir()
        return folder

    def _run(self, folder: Path, **told: Any) -> None:
        """Play the scenario in a process of its own, to its end or to its violent end.

        Raises:
            FluxError: It ended otherwise.
        """
        code = int(self._ask(serde.encode({"folder": str(folder), **told})))
        if code != (-signal.SIGKILL if "write" in told else 0):
            error = folder / "error"
            said = error.read_text("utf-8") if error.exists() else f"after {victim.PATIENCE_SECONDS} s, or by itself"
            raise FluxError(f"the process ended with {code}: {said}")

    def _ask(self, *requests: bytes) -> bytes:
        try:
            frames.send(self._channel, *requests)
            answer = frames.receive(self._channel)
        except (EOFError, OSError):
            raise FluxError("the child process ended: does the workflow's module end it while it is loaded?") from None
        if answer.startswith(victim.FAILED):
            why = answer.removeprefix(victim.FAILED).decode()
            raise FluxError(f"the workflow cannot be loaded in another process: {why}")
        return answer


def _course(folder: Path) -> Course:
    with closing(SqliteStore(folder / "flux.db")) as store:
        ending = ending_of(store)
    ledger = folder / "ledger"
    return Course(ending, effects_of(parsed(ledger.read_bytes())) if ledger.exists() else [])
