"""Slow clients and many of them: each has a deadline, and all together a limit."""

import contextlib
import os
import socket
import statistics
import sys
import time
from http.client import HTTPConnection

import pytest

from flux.api import listening as http
from flux.api.guard import Limits
from server.security.hostile import connected, listening, raw, read_all, serving

FULL = os.environ.get("FLUX_FULL_SIZE") == "1"
JSON_BODY = ("Content-Type: application/json", "Content-Length: 1000")


def is_closed(client: socket.socket, within: float) -> bool:
    """Whether the other side ends the connection in time, whatever it says before."""
    deadline = time.monotonic() + within
    try:
        while (left := deadline - time.monotonic()) > 0:
            client.settimeout(left)
            if not client.recv(65536):
                return True
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def wait_until(holds, seconds: float = 8) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


@pytest.fixture
def hurried(monkeypatch):
    """Deadlines of a moment."""
    monkeypatch.setattr(http, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(http, "STALLED_SECONDS", 0.5)
    monkeypatch.setattr(http, "KEEP_ALIVE_SECONDS", 1)


SLOW = {
    "silent": b"",
    "half a line": b"GET /hea",
    "half a header": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Some",
    "a header without its end": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "half a body": raw("POST", "/api/executions/x/cancel", *JSON_BODY, body=b"{"),
    "half of a second request": raw("GET", "/healthz") + b"GET /hea",
    "nothing more": raw("GET", "/healthz"),
}


@pytest.mark.slow
def test_a_client_that_is_slow_is_closed_in_time(harmed, hurried):
    application = harmed.application(is_open=True, limits=Limits(body_seconds=0.5))
    with listening(application) as port, contextlib.ExitStack() as stack:
        clients = {what: stack.enter_context(connected(port, sent)) for what, sent in SLOW.items()}

        assert [what for what, client in clients.items() if not is_closed(client, within=6)] == []


@pytest.mark.slow
def test_a_client_that_trickles_is_closed_in_time(harmed, hurried):
    application = harmed.application(is_open=True, limits=Limits(body_seconds=0.5))
    with listening(application) as port, contextlib.ExitStack() as stack:
        begun = (b"GET / HTTP/1.1\r\nX: ", raw("POST", "/api/executions/x/cancel", *JSON_BODY), b"")
        clients = [stack.enter_context(connected(port, sent)) for sent in begun]
        deadline, open_ = time.monotonic() + 6, set(clients)
        while open_ and time.monotonic() < deadline:
            for client in list(open_):
                try:
                    client.send(b"x")
                except OSError:
                    open_.discard(client)
            time.sleep(0.05)

    assert not open_


@pytest.mark.slow
def test_the_control_a_server_that_does_not_look_at_its_clients_is_found(harmed, hurried, monkeypatch):
    monkeypatch.setattr(http.Connection, "end_if_overdue", lambda *_: None)
    with listening(harmed.open) as port, connected(port, SLOW["half a header"]) as client:
        assert not is_closed(client, within=3)


@pytest.mark.slow
def test_a_request_that_takes_long_to_answer_is_not_closed_on(harmed, hurried):
    harmed.start("mine")
    with listening(harmed.open) as port:
        with connected(port, raw("GET", "/api/executions/mine?wait=3", "Connection: close")) as client:
            assert read_all(client).startswith(b"HTTP/1.1 200 ")


def test_connections_beyond_the_limit_are_told_so_and_free_ones_are_given(harmed, monkeypatch):
    monkeypatch.setattr(http, "CONNECTIONS", 20)
    with serving(harmed.open) as (port, server), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(port)) for _ in range(20)]
        wait_until(lambda: len(server._server.server_state.connections) == 20)
        refused = [read_all(stack.enter_context(connected(port))) for _ in range(5)]
        clients.pop().close()
        wait_until(lambda: len(server._server.server_state.connections) == 19)
        with connected(port, raw("GET", "/healthz", "Connection: close")) as client:
            let_in = read_all(client)

    assert all(each.startswith(b"HTTP/1.1 503 ") and b"Retry-After" in each for each in refused)
    assert let_in.startswith(b"HTTP/1.1 200 ")


def test_an_answer_on_a_kept_connection_does_not_wait_for_the_next_packet(harmed):
    """Head and body are two writes: without TCP_NODELAY the second waits 40 ms for the other side's delayed ACK."""
    with listening(harmed.open) as port:
        client = HTTPConnection("127.0.0.1", port)
        took = []
        for _ in range(15):
            begin = time.monotonic()
            client.request("GET", "/healthz")
            assert client.getresponse().read() == b'{"status":"ok"}'
            took.append(time.monotonic() - begin)
        client.close()

    assert min(took[1:]) < 0.03


# -- event streams


def opened_stream(port: int, token: str | None = None, path: str = "/api/stream") -> tuple[socket.socket, int]:
    lines = [f"Authorization: Bearer {token}"] if token else []
    client = connected(port, raw("GET", path, *lines))
    return client, int(client.recv(65536).split()[1])


def test_each_token_has_ten_streams_and_a_closed_one_makes_room(harmed):
    with listening(harmed.closed) as port, contextlib.ExitStack() as stack:
        opened = [opened_stream(port, harmed.tokens["viewer"]) for _ in range(12)]
        other, status = opened_stream(port, harmed.tokens["operator"])
        for client in (other, *(each for each, _ in opened)):
            stack.enter_context(client)
        opened[0][0].close()
        time.sleep(0.2)
        again, status_again = opened_stream(port, harmed.tokens["viewer"])
        again.close()

    assert [each for _, each in opened] == [200] * 10 + [429] * 2
    assert (status, status_again) == (200, 200)


def test_all_streams_together_have_a_limit(harmed):
    few = harmed.application(is_open=False, limits=Limits(streams=3))
    with listening(few) as port, contextlib.ExitStack() as stack:
        for n, (client, status) in enumerate(opened_stream(port, harmed.token(f"t{n}", "viewer")) for n in range(5)):
            stack.enter_context(client)

            assert status == (200 if n < 3 else 503)


def test_where_no_token_is_needed_an_address_has_ten_streams(harmed):
    with listening(harmed.open) as port, contextlib.ExitStack() as stack:
        opened = [opened_stream(port) for _ in range(11)]
        for client, _ in opened:
            stack.enter_context(client)

    assert [status for _, status in opened] == [200] * 10 + [429]


@pytest.mark.slow
@pytest.mark.parametrize("why", ["revoked", "expired"])
def test_an_open_stream_ends_within_five_seconds_of_its_token(harmed, why):
    token = harmed.token("temporary", "viewer", 1.5 if why == "expired" else None)
    with listening(harmed.closed) as port:
        client, status = opened_stream(port, token)
        other, _ = opened_stream(port, harmed.tokens["viewer"])
        if why == "revoked":
            harmed.app.catalogue.delete_token("temporary")
        begin = time.monotonic()
        with client, other:
            assert status == 200
            assert is_closed_or_ended(client, 7)
            assert time.monotonic() - begin < 5
            assert not is_closed(other, within=0.2)


def is_closed_or_ended(client: socket.socket, within: float) -> bool:
    """Whether the answer ends: its last chunk, or the connection."""
    client.settimeout(within)
    found = b""
    while not found.endswith(b"0\r\n\r\n"):
        piece = client.recv(65536)
        if not piece:
            break
        found += piece
    return True


def test_the_control_streams_that_do_not_look_again_are_found(harmed, monkeypatch):
    monkeypatch.setattr("flux.api.access.Gate.holds", lambda *_: True)
    token = harmed.token("temporary", "viewer")
    quick = harmed.application(is_open=False, limits=Limits(recheck_seconds=0.05))
    with listening(quick) as port:
        client, _ = opened_stream(port, token)
        harmed.app.catalogue.delete_token("temporary")
        with client, pytest.raises(TimeoutError):
            is_closed_or_ended(client, 1)


@pytest.mark.slow
def test_a_subscriber_that_does_not_read_is_dropped_and_little_waits_for_it(harmed, hurried, monkeypatch):
    from flux.api import streams

    async def flood(here, after):
        for n in range(10_000):
            yield "data: " + "x" * 300_000 + "\n\n"

    monkeypatch.setattr(streams, "_changes", flood)
    with serving(harmed.open) as (port, server):
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.connect(("127.0.0.1", port))
        with made:
            made.sendall(raw("GET", "/api/stream"))
            buffered = []

            def is_dropped():
                connections = list(server._server.server_state.connections)
                buffered.extend(each.transport.get_write_buffer_size() for each in connections if each.transport)
                return bool(buffered) and not connections

            wait_until(is_dropped)

    assert 0 < max(buffered) <= 1_000_000
    assert not server._server.server_state.tasks


@pytest.mark.slow
def test_a_subscriber_that_reads_slowly_but_reads_is_kept(harmed, hurried, monkeypatch):
    from flux.api import streams

    async def steady(here, after):
        for n in range(40):
            yield "data: " + "x" * 100_000 + "\n\n"
        yield "event: end\n\n"

    monkeypatch.setattr(streams, "_changes", steady)
    with listening(harmed.open) as port, connected(port, raw("GET", "/api/stream", "Connection: close")) as client:
        found = b""
        while piece := client.recv(65536):
            found += piece
            time.sleep(0.02)

    assert b"event: end" in found


# -- many


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_hundreds_of_subscribers_do_not_keep_others_waiting_and_ten_are_let_in(server):
    pid, port = server
    count = 700 if FULL else 150
    before, took = open_files(pid), []
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(port, raw("GET", "/api/stream"))) for _ in range(count)]
        statuses = [int(client.recv(65536).split()[1]) for client in clients]
        for _ in range(200):
            at = time.monotonic()
            with connected(port, raw("GET", "/healthz", "Connection: close")) as client:
                assert read_all(client).startswith(b"HTTP/1.1 200 ")
            took.append(time.monotonic() - at)
        wait_until(lambda: open_files(pid) <= before + 10, seconds=10)  # The others were idle.
    wait_until(lambda: open_files(pid) <= before, seconds=10)

    assert (statuses.count(200), statuses.count(429)) == (10, count - 10)
    assert statistics.quantiles(took, n=100)[98] < 1.0


def open_files(pid: int) -> int:
    """All but those of the database, of which each thread keeps some."""
    found = 0
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # It was closed meanwhile.
            found += "flux.db" not in os.readlink(f"/proc/{pid}/fd/{number}")
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_hundreds_of_slow_clients_do_not_keep_others_waiting_and_are_gone_in_time(server):
    pid, port = server
    count = 500 if FULL else 120
    before = open_files(pid)
    kinds = [SLOW[what] for what in ("silent", "half a header", "half a body", "half of a second request")]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(port, kinds[n % len(kinds)])) for n in range(count)]
        begun, took = time.monotonic(), []
        while time.monotonic() - begun < 5:
            at = time.monotonic()
            with connected(port, raw("GET", "/healthz", "Connection: close")) as client:
                assert read_all(client).startswith(b"HTTP/1.1 200 ")
            took.append(time.monotonic() - at)
            for each in clients[:: len(kinds)]:  # Some go on, a byte at a time.
                with contextlib.suppress(OSError):
                    each.send(b"G")
        wait_until(lambda: open_files(pid) <= before, seconds=15)
        all_gone = time.monotonic() - begun
        closed = sum(is_closed(each, within=0.5) for each in clients)
    p99 = statistics.quantiles(took, n=100)[98]
    print(f"{count} slow clients, gone after {all_gone:.1f} s; {len(took)} answers, p99 {p99 * 1000:.1f} ms")

    assert closed == count
    assert p99 < 1.0
    assert all_gone < 12
