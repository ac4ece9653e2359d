"""The child process of `killing`; this module is for loading a workflow there, and playing scenarios in forks of it."""

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from flux import serde
from flux.engine import frames
from flux.engine.process_child import _load, _loading
from flux.store.sqlite import SqliteStore
from flux.testing import ledger
from flux.testing.bed import Bed, watch_writes
from flux.testing.differences import Witness
from flux.testing.scenario import EVERYTHING, Scenario
from flux.testing.virtual_time import EPOCH_US, RememberingLoop, VirtualTime
from flux.workflow import find_workflow

PATIENCE_SECONDS = 60
FAILED = b"failed: "


def main() -> None:
    """Fork a process for each order, and tell how it ended, until the channel is closed."""
    channel = int(sys.argv[1])
    try:
        scenario = _loaded(serde.decode(frames.receive(channel)), frames.receive(channel))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary around the user's module.
        frames.send(channel, FAILED + repr(error).encode())
        return
    frames.send(channel, b"loaded")
    while True:
        try:
            told = serde.decode(frames.receive(channel))
        except (EOFError, OSError):
            return
        process = os.fork()
        if process == 0:
            os.close(channel)
            os._exit(_play(scenario, told))
        _, status = os.waitpid(process, 0)
        frames.send(channel, str(os.waitstatus_to_exitcode(status)).encode())


def _loaded(order: dict[str, Any], values: bytes) -> Scenario:
    with _loading():
        _load(order["module"], order["file"])
    return Scenario(find_workflow(order["workflow"]), *serde.decode(values))


def _play(scenario: Scenario, told: dict[str, Any]) -> int:
    signal.alarm(PATIENCE_SECONDS)  # Nobody waits longer for it.
    os.chdir(told["folder"])
    try:
        ledger.keep_in(Path("ledger"))
        bed = _bed()
        _Death(bed, told)
        scenario.play(bed)
    except BaseException as error:  # noqa: BLE001 - told to whoever wants to know why it did not end well.
        Path("error").write_text(traceback.format_exc() if told.get("log") else repr(error), "utf-8")
        return 1
    return 0


def _bed() -> Bed:
    """A bed on the database of this folder, as late as that is."""
    store = SqliteStore(Path("flux.db"))
    events = [event for row in store.list(limit=EVERYTHING) for event in store.events(row.execution_id)]
    time = VirtualTime(max((event.time_us for event in events), default=EPOCH_US) - EPOCH_US)
    return Bed(store=store, time=time, loop=RememberingLoop)


class _Death:
    """Comes before or after the write that was told, if one was."""

    def __init__(self, bed: Bed, told: dict[str, Any]) -> None:
        self._at, self._log = (told.get("write"), told.get("side")), told.get("log")
        self._witness, self._number = Witness(bed.app.engine), 0
        watch_writes(bed.store, self._before, self._after)

    def _before(self, write: str, arguments: tuple[Any, ...]) -> None:
        self._number += 1
        if self._log is not None:
            with Path(self._log).open("ab") as log:
                told = [self._witness.text(write, arguments), self._witness.line(write, arguments)]
                log.write(serde.encode(told) + b"\n")
        self._come("before")

    def _after(self, _: str, __: tuple[Any, ...]) -> None:
        self._come("after")

    def _come(self, side: str) -> None:
        if self._at == (self._number, side):
            os.kill(os.getpid(), signal.SIGKILL)
