"""A crowd that subscribes, and of which some never read: those who read get everything, the others are dropped.

FLUX_FULL_SIZE=1 makes it 2,000, of whom 200 never read.
"""

import contextlib
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import flux
from server.security.hostile import connected, raw, read_all

FULL = os.environ.get("FLUX_FULL_SIZE") == "1"
SUBSCRIBERS, SILENT = (2000, 200) if FULL else (200, 20)
LAST = b"that was all"
EACH = 10  # A token has so many streams.
TESTS = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]


@contextlib.contextmanager
def crowded(folder: Path, *, tokens: int, streams: int):
    path = os.pathsep.join([str(Path(flux.__file__).parents[1]), str(TESTS)])
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("crowded.py")), str(folder / "state"), str(tokens), str(streams)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        told = json.loads(process.stdout.readline())
        yield process, told["port"], told["tokens"]
    finally:
        process.kill()
        process.communicate()


def state(process) -> tuple[int, int]:
    """How much waits for a subscriber at most, and how many connections there are."""
    process.stdin.write("\n")
    process.stdin.flush()
    return tuple(json.loads(process.stdout.readline()))


def subscribed(port: int, token: str, *, is_silent: bool = False) -> socket.socket:
    made = socket.socket()
    if is_silent:  # The system takes little in its place.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", port))
    made.sendall(raw("GET", "/api/stream", f"Authorization: Bearer {token}"))
    return made


def files_of(process) -> int:
    """All that it has open but its database, of which each thread keeps some."""
    found = 0
    for number in os.listdir(f"/proc/{process.pid}/fd"):
        with contextlib.suppress(OSError):  # It was closed meanwhile.
            found += "flux.db" not in os.readlink(f"/proc/{process.pid}/fd/{number}")
    return found


def test_who_reads_gets_everything_and_who_does_not_is_dropped_while_others_are_answered(tmp_path):
    with crowded(tmp_path, tokens=SUBSCRIBERS // EACH, streams=SUBSCRIBERS) as (process, port, tokens):
        with connected(port, raw("GET", "/healthz", "Connection: close")) as client:
            read_all(client)
        before, took, waiting = files_of(process), [], []
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
            clients = [
                stack.enter_context(subscribed(port, tokens[n // EACH], is_silent=n < SILENT))
                for n in range(SUBSCRIBERS)
            ]
            got = {client: b"" for client in clients[SILENT:]}
            done: set[socket.socket] = set()
            for client in got:
                client.setblocking(False)
                selector.register(client, selectors.EVENT_READ)
            begun = time.monotonic()
            read_until, dropped_at, asked_at = 0.0, 0.0, 0.0
            while not dropped_at and time.monotonic() - begun < 60:
                for key, _ in selector.select(0.02):
                    piece = key.fileobj.recv(1 << 18)
                    assert piece, "one that reads was dropped"
                    got[key.fileobj] = (got[key.fileobj] + piece)[-100:]
                    if LAST in got[key.fileobj]:
                        done.add(key.fileobj)
                        read_until = time.monotonic() - begun
                if time.monotonic() - asked_at < 0.1:
                    continue
                asked_at = time.monotonic()
                with connected(port, raw("GET", "/healthz", "Connection: close")) as client:
                    assert read_all(client).startswith(b"HTTP/1.1 200 ")
                took.append(time.monotonic() - asked_at)
                waits, connections = state(process)
                waiting.append(waits)
                if len(done) == len(got) and connections <= len(got):
                    dropped_at = time.monotonic() - begun
        closing = time.monotonic()
        while files_of(process) > before:
            assert time.monotonic() - closing < 10, f"{files_of(process)} files are open, {before} were"
            time.sleep(0.05)
    p99 = statistics.quantiles(took, n=100)[98]
    print(f"{SUBSCRIBERS} subscribers: all that read had everything after {read_until:.1f} s")
    print(f"the {SILENT} others were gone after {dropped_at:.1f} s; at most {max(waiting):,} bytes waited for one")
    print(f"p99 of {len(took)} answers {p99 * 1000:.0f} ms")

    assert len(done) == SUBSCRIBERS - SILENT and dropped_at
    assert dropped_at - read_until < 13  # Ten seconds, a look each second, and what this machine takes.
    assert max(waiting) <= 1_000_000
    assert p99 < 1.0


def test_beyond_the_limit_of_all_a_subscriber_is_told_to_come_back(tmp_path):
    allowed = SUBSCRIBERS // 10
    with crowded(tmp_path, tokens=SUBSCRIBERS // EACH, streams=allowed) as (_, port, tokens):
        with contextlib.ExitStack() as stack:
            statuses = []
            for n in range(SUBSCRIBERS):
                client = stack.enter_context(subscribed(port, tokens[n // EACH]))
                statuses.append(int(client.recv(4096).split()[1]))

    assert statuses.count(200) == allowed
    assert {each for each in statuses if each != 200} == {503}
