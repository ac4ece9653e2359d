"""SIGTERM under load: tasks end and are recorded, the rest is given back at once, and nothing acknowledged is lost."""

import collections
import contextlib
import itertools
import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from e2e.command import HEAD, wait_for
from e2e.serving import Served
from flux.app import App
from flux.domain.execution import ExecutionState
from flux.settings import Settings

SIGNALS = int(os.environ.get("FLUX_TEST_SIGTERMS", "20"))
GRACE_SECONDS = 1.0
TASKS = 6
WORK = f"""{HEAD}
import os, random

def note(*words):
    descriptor = os.open("effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (" ".join(map(str, words)) + "\\n").encode())
    os.close(descriptor)

@task
async def act(execution, key, seconds):
    note("begin", execution, key)
    await asyncio.sleep(seconds)
    note("end", execution, key)

@workflow
async def work(ctx):
    for key in range({TASKS}):
        # Every second execution ends with a task that outlasts every grace.
        is_long = ctx.input % 2 and key == {TASKS} - 1
        await act(ctx.execution_id, f"long{{key}}" if is_long else f"short{{key}}", 2.5 if is_long else 0.02 + key / 30)
    return ctx.input
"""


class BrokenPromise(AssertionError):
    """A drain did what it must not."""


def hold(promise: bool, what: str) -> None:  # noqa: FBT001
    if not promise:
        raise BrokenPromise(what)


@dataclass
class Site:
    """A database under load, and what is known of it."""

    directory: Path
    app: App = field(init=False)
    ids: list[str] = field(default_factory=list)
    taken_over_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.directory / "load.py").write_text(WORK, "utf-8")
        self.app = App(Settings(database=self.directory / ".flux" / "flux.db"))

    def worker(self) -> Served:
        options = ("--grace", str(GRACE_SECONDS), "--concurrency", "1000")  # There is room for all that is given back.
        served = Served(self.directory, "worker", "load.py", *options).ready()
        wait_for(lambda: self.name_of(served))
        return served

    def start(self, count: int) -> None:
        """Have so many executions acknowledged."""
        for _ in range(count):
            row, _is_new = self.app.control().start("work", len(self.ids))
            self.ids.append(row.execution_id)

    def owned_by(self, worker: str) -> set[str]:
        rows = self.app.store.list(state=ExecutionState.RUNNING, limit=1000)
        return {row.execution_id for row in rows if row.worker == worker}

    def name_of(self, served: Served) -> str:
        found = [w.worker for w in self.app.catalogue.workers() if w.process.endswith(f":{served.process.pid}")]
        return found[0] if found else ""

    def drain(self, served: Served, signal_: int) -> None:
        """Signal a worker that has work, and see that it keeps what a drain promises."""
        worker = self.name_of(served)
        wait_for(lambda: self.owned_by(worker))
        began = time.monotonic()
        served.process.send_signal(signal_)
        time.sleep(0.05)  # Claims that were on their way.
        owned = self.owned_by(worker)
        self.start(3)
        while served.process.poll() is None:
            hold(self.owned_by(worker) <= owned, "it claimed after the signal")
            hold(time.monotonic() - began < GRACE_SECONDS + 2, "it did not end in time")
            time.sleep(0.02)
        hold(served.process.returncode == 0, f"it ended with {served.process.returncode}: {served.text}")
        ended = time.monotonic()
        hold(not self.owned_by(worker), "it kept something")
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not self.waiting(owned), seconds=3)
        self.taken_over_seconds.append(time.monotonic() - ended)
        hold(self.taken_over_seconds[-1] < 1, f"a takeover took {self.taken_over_seconds[-1]:.1f} s")

    def begun(self) -> int:
        """How many tasks have begun."""
        effects = self.directory / "effects"
        return effects.read_text("utf-8").count("begin") if effects.exists() else 0

    def waiting(self, ids: set[str]) -> list[str]:
        """Those that nobody has taken over."""
        rows = [self.app.row(id_) for id_ in ids]
        return [row.execution_id for row in rows if row.state is ExecutionState.SCHEDULED]

    def check(self) -> None:
        """Everything that was acknowledged completes, and what ended within a grace has run once."""
        left = set(self.ids)

        def is_over() -> bool:
            left.difference_update({id_ for id_ in left if self.app.row(id_).state.is_finished})
            return not left

        wait_for(is_over, seconds=60)
        outputs = [self.app.engine.context(self.app.row(id_)).output for id_ in self.ids]
        hold(outputs == list(range(len(self.ids))), "something that was acknowledged is lost, or came out otherwise")
        counts = collections.Counter((self.directory / "effects").read_text("utf-8").splitlines())
        for id_, key in itertools.product(self.ids, range(TASKS)):
            begun, ended = (counts[f"{what} {id_} short{key}"] for what in ("begin", "end"))
            long_ended = counts[f"end {id_} long{key}"]
            hold((begun, ended, long_ended) in {(1, 1, 0), (0, 0, 1)}, f"{id_} {key}: {begun}, {ended}, {long_ended}")


@contextlib.contextmanager
def site_of(directory: Path):
    site = Site(directory)
    workers: list[Served] = []
    try:
        yield site, workers
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.stop(signal.SIGKILL)
        site.app.close()


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * SIGNALS)
def test_a_drain_records_what_ends_gives_back_the_rest_and_loses_nothing(tmp_path):
    chance = random.Random(7)
    with site_of(tmp_path) as (site, workers):
        workers.append(site.worker())
        site.start(20)
        for _ in range(SIGNALS):
            workers.append(site.worker())
            site.start(8)
            time.sleep(chance.uniform(0, 0.3))
            site.drain(workers[-2], signal.SIGTERM)
        site.check()
    print(f"takeovers: {max(site.taken_over_seconds):.2f} s at most, of {SIGNALS}")
    assert len(site.taken_over_seconds) == SIGNALS


@pytest.mark.slow
def test_a_kill_in_place_of_a_drain_is_found(tmp_path):
    """The control: the same checks of processes that are killed."""
    with site_of(tmp_path) as (site, workers):
        workers.append(site.worker())
        site.start(20)
        wait_for(lambda: site.begun() > 60)  # Each is at its third task or so, and most are in the middle of one.
        with pytest.raises(BrokenPromise, match="it ended with -9"):
            site.drain(workers[0], signal.SIGKILL)
        workers.append(site.worker())
        with pytest.raises(BrokenPromise):
            site.check()


def stubborn(directory: Path) -> Served:
    (directory / "stubborn.py").write_text(
        f"""{HEAD}
import time

@task
async def stay():
    pathlib.Path("staying").touch()
    await asyncio.to_thread(time.sleep, 60)

@workflow
async def forever(ctx):
    await stay()
""",
        "utf-8",
    )
    return Served(directory, "worker", "stubborn.py", "--grace", "0.2").ready()


@pytest.mark.slow
def test_a_worker_ends_in_time_although_a_thread_does_not(tmp_path):
    app = App(Settings(database=tmp_path / ".flux" / "flux.db"))
    worker = stubborn(tmp_path)
    wait_for(app.catalogue.workflows)
    row, _ = app.control().start("forever", None)
    wait_for((tmp_path / "staying").exists)
    began = time.monotonic()

    assert worker.stop() == 0
    assert time.monotonic() - began < 2.2
    assert app.row(row.execution_id).state is ExecutionState.SCHEDULED  # Nobody had to find the worker dead.
    assert app.catalogue.workers() == []
    app.close()


@pytest.mark.slow
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_worker_at_once(tmp_path, first):
    app = App(Settings(database=tmp_path / ".flux" / "flux.db"))
    (tmp_path / "load.py").write_text(WORK, "utf-8")
    worker = Served(tmp_path, "worker", "load.py", "--grace", "30").ready()
    wait_for(app.catalogue.workflows)
    for number in (1, 3, 5):
        app.control().start("work", number)
    wait_for(lambda: "long" in ((tmp_path / "effects").read_text() if (tmp_path / "effects").exists() else ""))
    worker.process.send_signal(first)
    time.sleep(0.1)
    assert worker.process.poll() is None
    began = time.monotonic()

    assert worker.stop() == 130
    assert time.monotonic() - began < 0.5
    app.close()
