"""A parent and its child run in one process; another one sends them messages, and takes over both when that dies."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from crash.processes import Child, child
from flux.store.sqlite import SqliteStore


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Child, Child]]:
    """Two processes in one directory."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(child("relative.py", tmp_path)) for _ in range(2))
        for each in (first, second):
            assert each.line() == "up"
        yield first, second


def tell(process: Child, *lines: str) -> None:
    """Have it do that, and return when that is done."""
    for line in lines:
        process.say(line)
        assert process.line("done") == f"done {line}"


def effects(directory: Path) -> list[tuple[str, int]]:
    """What was done, and by which process."""
    lines = map(str.split, (directory / "ledger").read_text().splitlines())
    return [(key, int(pid)) for key, pid in lines]


def states(directory: Path) -> dict[str, str]:
    """The state of each execution, by the name of its workflow; nothing is left in an inbox."""
    with closing(SqliteStore(directory / ".flux" / "flux.db")) as store:
        rows = store.list()
        assert [store.inbox(row.execution_id) for row in rows] == [[] for _ in rows]
        return {row.workflow: str(row.state) for row in rows}


def test_who_takes_over_a_parent_takes_over_its_child_and_what_was_sent_to_them(tmp_path, pair):
    first, second = pair
    first.say("run parent x")
    first.line("holds child-held")
    tell(second, "signal x")

    first.signal(signal.SIGKILL)
    second.say("run parent x")
    second.line("holds child-held")
    second.say("open child-held")
    assert second.line("result") == "result x PAUSED None"
    tell(second, "resume below x")
    second.say("run parent x")

    assert second.line("result") == "result x COMPLETED 1100"
    assert effects(tmp_path) == [
        ("first", first.pid),
        ("child-first", first.pid),
        ("child-held", first.pid),
        ("child-held", second.pid),
    ]
    assert states(tmp_path) == {"parent": "COMPLETED", "child": "COMPLETED"}


def test_a_cancel_that_the_owner_did_not_live_to_see_cancels_parent_and_child_and_undoes_once(tmp_path, pair):
    first, second = pair
    first.say("run parent x")
    first.line("holds child-held")
    first.stop()
    tell(second, "cancel x")

    first.signal(signal.SIGKILL)
    second.say("run parent x")

    assert second.line("result") == "result x CANCELLED None"
    assert effects(tmp_path)[2:] == [("child-held", first.pid), ("undo-child-held", second.pid)]
    assert states(tmp_path) == {"parent": "CANCELLED", "child": "CANCELLED"}


def test_a_cancel_from_another_process_reaches_parent_and_child(tmp_path, pair):
    first, second = pair
    first.say("run parent x")
    first.line("holds child-held")

    tell(second, "cancel x")

    assert first.line("result") == "result x CANCELLED None"
    assert effects(tmp_path)[2:] == [("child-held", first.pid), ("undo-child-held", first.pid)]
    assert states(tmp_path) == {"parent": "CANCELLED", "child": "CANCELLED"}


def test_a_child_that_is_resumed_from_another_process_goes_on_beside_its_busy_parent_and_after_its_death(
    tmp_path, pair
):
    first, second = pair
    first.say("run busy_parent x")
    first.line("holds held")
    until_asked(tmp_path)
    tell(second, "resume below x")
    first.line("holds child-answered")

    first.signal(signal.SIGKILL)
    tell(second, "open held", "open child-answered", "run busy_parent x")

    assert second.line("result") == "result x COMPLETED 1001"
    assert sorted(effects(tmp_path)) == sorted(
        (key, each.pid) for key in ("held", "child-answered") for each in (first, second)
    )
    assert states(tmp_path) == {"busy_parent": "COMPLETED", "asking_child": "COMPLETED"}


def until_asked(directory: Path) -> None:
    """Wait until the child of x is paused."""
    with closing(SqliteStore(directory / ".flux" / "flux.db")) as store:
        while not any(store.pauses(row.execution_id) for row in store.list(parent_id="x")):
            time.sleep(0.005)
