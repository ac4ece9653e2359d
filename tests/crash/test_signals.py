"""Signals that were acknowledged are received once, and in order, however often their receiver is killed."""

import collections
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from crash.processes import PATIENCE_SECONDS, child
from flux.store.sqlite import SqliteStore

EXECUTION = "mailbox"
CLIENTS, SIGNALS, KILLS = 50, 200, 50
SENDERS = 2  # Processes: each has so many of the clients.


def receive_all(directory: Path, clients: int, each: int, build: str, kills: int) -> None:
    """Send, and receive in a process that is killed so often, at any moment; then let it come to its end."""
    with ExitStack() as stack:
        receiver = stack.enter_context(child("mailbox.py", directory, "receive", str(clients * each)))

        def receive_for(seconds: float) -> int:
            receiver.say(str(seconds))
            return int(receiver.line())

        until(lambda: receive_for(0.5) and is_recorded(directory))  # Before that nothing can be sent to it.
        share = clients // SENDERS
        senders = [
            stack.enter_context(child("mailbox.py", directory, "send", build, str(n * share), str(share), str(each)))
            for n in range(SENDERS)
        ]
        while kills:
            kills -= receive_for(random.uniform(0.02, 0.35)) == -signal.SIGKILL
        assert receive_for(PATIENCE_SECONDS - 5) == 0, "it does not come to an end"
        for sender in senders:
            assert sender.end() == 0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline


def is_recorded(directory: Path) -> bool:
    if not (directory / ".flux" / "flux.db").exists():
        return False
    with closing(SqliteStore(directory / ".flux" / "flux.db")) as store:
        return store.get(EXECUTION) is not None


def check(directory: Path) -> None:
    """Every promise about what was received."""
    with closing(SqliteStore(directory / ".flux" / "flux.db")) as store:
        events = store.events(EXECUTION)
        assert store.inbox(EXECUTION) == []
    received = [event.value["value"] for event in events if event.type == "WORKFLOW_SIGNALLED"]
    acknowledged = (directory / "acks").read_text().split()

    assert [name for name, times in collections.Counter(received).items() if times > 1] == []
    assert set(acknowledged) <= set(received)
    by_client = collections.defaultdict(list)
    for name in received:
        client, _, number = name.partition("-")
        by_client[client].append(int(number))
    assert all(numbers == sorted(numbers) for numbers in by_client.values())
    assert events[-1].value == received


@pytest.mark.slow
def test_signals_are_received_once_and_in_order_by_a_process_that_is_killed_again_and_again(tmp_path: Path) -> None:
    receive_all(tmp_path, CLIENTS, SIGNALS, "sound", KILLS)

    check(tmp_path)
    assert len((tmp_path / "acks").read_text().split()) == CLIENTS * SIGNALS


@pytest.mark.slow
def test_the_check_finds_a_build_that_does_not_recognise_a_repeat(tmp_path: Path) -> None:
    receive_all(tmp_path, 4, 30, "ignore_client_ids", 0)

    with pytest.raises(AssertionError):
        check(tmp_path)
