"""Signals of many clients while the process that takes them is killed again and again: each arrives, once, in order."""

import random
from contextlib import closing
from pathlib import Path

import pytest

from crash.processes import child
from flux.store.sqlite import SqliteStore

CLIENTS, SIGNALS, KILLS = 20, 50, 25

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def received(directory: Path) -> list[str]:
    with closing(SqliteStore(directory / ".flux" / "flux.db")) as store:
        return [event.value["value"] for event in store.events("x") if event.type == "WORKFLOW_SIGNALLED"]


def check(mail: list[str], acknowledged: list[str]) -> None:
    assert sorted(mail) == sorted(acknowledged), "each acknowledged signal is in the history exactly once"
    for number in range(CLIENTS):
        of_client = [int(each.partition("-")[2]) for each in mail if each.startswith(f"{number}-")]
        assert of_client == sorted(of_client), f"client {number} is read out of order"


def deliver(directory: Path, kills: int, chance: random.Random) -> list[str]:
    """Send everything while the reader is killed; returns what is in the history at the end."""
    total = str(CLIENTS * SIGNALS)
    with child("mailbox.py", directory, "send", str(CLIENTS), str(SIGNALS)) as sender:
        for _ in range(kills):
            with child("mailbox.py", directory, "run", total) as reader:
                if not reader.kill_after(chance.uniform(0.2, 0.9)):
                    break
        with child("mailbox.py", directory, "run", total) as reader:
            assert reader.line("done") == f"done {total}"
        assert sender.end() == 0
    return received(directory)


def test_every_acknowledged_signal_is_taken_once_and_in_order(tmp_path: Path) -> None:
    mail = deliver(tmp_path, KILLS, random.Random(25))

    check(mail, (tmp_path / "acks").read_text().split())


def test_control_clients_that_do_not_say_that_they_repeat_themselves_are_heard_twice(tmp_path: Path) -> None:
    with child("mailbox.py", tmp_path, "run", "4") as reader:
        with child("mailbox.py", tmp_path, "send", "1", "3", "careless") as sender:
            assert sender.end() == 0
        assert reader.line("done") == "done 4"

    with pytest.raises(AssertionError, match="exactly once"):
        check(received(tmp_path), (tmp_path / "acks").read_text().split())
