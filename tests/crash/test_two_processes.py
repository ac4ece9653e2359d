"""Of two processes that want one execution, one runs it: neither a race nor a frozen owner does anything twice."""

import signal
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

from crash.checker import Checker
from crash.processes import Child, child

ROUNDS = 20


def rows(directory: Path) -> list[tuple]:
    """All that is stored, but who is alive."""
    with closing(sqlite3.connect(directory / ".flux" / "flux.db")) as database:
        tables = ("executions", "events", "pauses", "inbox")
        return [row for table in tables for row in database.execute(f"SELECT * FROM {table} ORDER BY 1, 2")]


def effects(directory: Path, execution: str) -> list[tuple[str, int]]:
    """What tasks of an execution did: the key, and the process."""
    lines = [line.split() for line in (directory / "ledger").read_text().splitlines()]
    return [(key, int(pid)) for who, key, pid in lines if who == execution]


def test_of_two_processes_started_at_once_on_one_id_one_runs_it_and_both_return_its_result(tmp_path):
    with ExitStack() as stack:
        pair = [stack.enter_context(child("rival.py", tmp_path, "sound")) for _ in range(2)]
        for each in pair:
            each.line("up")
        for round_ in range(ROUNDS):
            for each in pair:
                each.say(f"round-{round_} {round_}")
            for each in pair:
                assert each.line("result") == f"result round-{round_} COMPLETED {round_ + 3}"

    checker = Checker(tmp_path)
    checker.look([f"round-{n}" for n in range(ROUNDS)])
    for round_ in range(ROUNDS):
        done = effects(tmp_path, f"round-{round_}")
        assert [key for key, _ in done] == ["first", "second", "third"]
        assert len({pid for _, pid in done}) == 1


class Takeover:
    """An owner is frozen in its second task until its lease is over; another process takes over, into that task."""

    def __init__(self, directory: Path, stack: ExitStack, build: str) -> None:
        lease = {"FLUX_LEASE_SECONDS": "0.5"}
        self.directory = directory
        self.frozen: Child = stack.enter_context(child("rival.py", directory, build, **lease))
        self.frozen.say("held 1")
        self.frozen.line("waiting held")
        self.frozen.stop()
        self.frozen.say("open held")  # Read when it goes on: its task ends at once then.
        self.successor: Child = stack.enter_context(child("rival.py", directory, "sound", **lease))
        self.successor.say("held 1")
        self.successor.line("waiting held")
        self.before = rows(directory)

    def thaw(self) -> None:
        self.frozen.signal(signal.SIGCONT)

    def finish(self) -> None:
        self.successor.say("open held")
        assert self.successor.line("result") == "result held COMPLETED 4"


def test_an_owner_frozen_for_longer_than_its_lease_does_nothing_more_and_returns_its_successors_result(tmp_path):
    with ExitStack() as stack:
        takeover = Takeover(tmp_path, stack, "sound")
        takeover.finish()
        finished = rows(tmp_path)
        takeover.thaw()

        assert takeover.frozen.line("result") == "result held COMPLETED 4"
        frozen, successor = takeover.frozen.pid, takeover.successor.pid

    assert rows(tmp_path) == finished
    assert effects(tmp_path, "held") == [
        ("first", frozen),
        ("second", frozen),
        ("second", successor),
        ("third", successor),
    ]


def test_what_an_owner_writes_after_its_successor_began_is_refused_by_the_fence_alone(tmp_path):
    with ExitStack() as stack:
        takeover = Takeover(tmp_path, stack, "no_heartbeat")
        takeover.thaw()
        assert takeover.frozen.line("append held 1") == "append held 1 stale"
        assert rows(tmp_path) == takeover.before
        takeover.finish()

        assert takeover.frozen.line("result") == "result held COMPLETED 4"

    Checker(tmp_path).look([])
    assert [key for key, _ in effects(tmp_path, "held")] == ["first", "second", "second", "third"]


def test_without_the_fence_a_stale_event_gets_in(tmp_path):
    with ExitStack() as stack:
        takeover = Takeover(tmp_path, stack, "no_fence")
        takeover.thaw()
        assert takeover.frozen.line("append held 1") == "append held 1 stored"

        assert rows(tmp_path) != takeover.before
