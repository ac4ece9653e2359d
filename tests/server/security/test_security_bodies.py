"""What a body may be: received whole, small enough, in time, and JSON that is safe to take."""

import gzip
import itertools
import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from flux.api import receiving
from flux.api.guard import Limits
from server.security.hostile import connected, listening, raw, read_all

START = "/api/workflows/twofold/executions"
RESUME = "/api/executions/mine/resume"


def sent(harmed, body, **more):
    return harmed.ask("POST", START, body=body, **more)


def test_a_body_of_json_is_taken(harmed):
    for body in (b'{"input": 1}', b'{"input": "\\u00e9\\ud83d\\ude00"}', '{"input": "é"}'.encode(), b' {"input":[]} '):
        assert sent(harmed, body).status == 202


INVALID = {
    "nothing that ends": b'{"input": ',
    "two values": b'{"input": 1} {}',
    "a comma too many": b'{"input": 1,}',
    "no text": b"\xff\xfe{}",
    "UTF-16": '{"input": 1}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a name twice": b'{"input": 1, "input": 2}',
    "a name twice, deep": b'{"input": [{"a": 1, "\\u0061": 2}]}',
    "not a number": b'{"input": NaN}',
    "infinity": b'{"input": [Infinity]}',
    "negative infinity": b'{"input": -Infinity}',
    "a number that is infinite": b'{"input": 1e999}',
    "a number of many digits": b'{"input": ' + b"9" * 5000 + b"}",
    "half a character": b'{"input": "\\ud800"}',
    "half a character as a name": b'{"input": {"\\udfff": 1}}',
    "a control character": b'{"input": "\x00"}',
    "100,000 levels": b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects": b'{"a":' * 100_000,
    "101 levels": b"[" * 101 + b"]" * 101,
    "a form": b"input=1&execution_id=2",
    "NUL": b"\0",
}


def test_what_is_no_json_is_refused_with_a_hint_and_changes_nothing(harmed):
    harmed.start("mine")
    for what, path in itertools.product(INVALID, (START, RESUME)):
        answer = harmed.ask("POST", path, body=INVALID[what])

        assert (answer.status, answer.is_problem()) == (400, True), what
        assert answer.json["hint"]
    assert harmed.app.store.inbox("mine") == []
    assert len(harmed.ask("GET", "/api/executions").json["executions"]) == 1


def test_what_is_no_request_of_ours_is_refused_with_a_hint(harmed):
    for body in (b"[]", b"1", b'"x"', b"null", b'{"unknown": 1}', b'{"execution_id": 5}', b'{"attributes": {"a": 1}}'):
        answer = sent(harmed, body)

        assert (answer.status, answer.is_problem()) == (422, True)


def test_a_hundred_levels_are_taken_and_brackets_in_texts_are_none(harmed):
    assert sent(harmed, b'{"input": ' + b"[" * 99 + b"]" * 99 + b"}").status == 202
    assert sent(harmed, json.dumps({"input": '["{\\"' * 5000 + "\\"}).encode()).status == 202


def test_the_control_a_guard_that_looks_at_no_body_is_found(harmed, monkeypatch):
    monkeypatch.setattr(receiving, "check", lambda body: None)

    assert sent(harmed, INVALID["a name twice"]).status == 202


def test_a_body_with_too_many_values_is_refused_and_commas_in_texts_are_none(harmed):
    many = b'{"input": [' + b"0," * receiving.VALUES + b"0]}"
    keys = b'{"input": {' + b",".join(b'"%x":0' % n for n in range(280_000)) + b"}}"
    assert len(keys) < Limits().body_bytes

    assert [sent(harmed, body).status for body in (many, keys)] == [413, 413]
    assert sent(harmed, b'{"input": "' + b"," * (receiving.VALUES + 9) + b'"}').status == 202


@pytest.mark.parametrize("pattern", ['"', '\\"', '"\\', "[", "{", '[",', "\\", "0,", '"",', "[]", '{"a":', "\ud83d"])
def test_looking_at_a_body_takes_time_that_is_linear(pattern):
    body = (pattern * (Limits().body_bytes // len(pattern))).encode("utf-8", "replace")
    begin = time.process_time()
    with pytest.raises(receiving.RefusedError):
        receiving.check(body)

    assert time.process_time() - begin < 1.0


def test_a_body_that_is_too_large_is_refused_whatever_it_says(harmed):
    small = harmed.application(is_open=True, limits=Limits(body_bytes=1000))
    at_once = harmed.ask(
        "POST", START, on=small, body=b"", headers={"content-type": "application/json", "content-length": "1001"}
    )
    chunked = {"content-type": "application/json", "transfer-encoding": "chunked"}
    in_pieces = harmed.ask("POST", START, on=small, body=[b'"' + b"x" * 99] * 11, headers=chunked)
    exact = json.dumps({"input": "x" * 987}).encode()
    assert len(exact) == 1000

    assert [(each.status, each.json["type"]) for each in (at_once, in_pieces)] == [(413, "TooLarge")] * 2
    assert at_once.header("connection") == in_pieces.header("connection") == "close"
    assert harmed.ask("POST", START, on=small, body=exact).status == 202


def test_the_control_a_guard_with_no_limit_is_found(harmed):
    loose = harmed.application(is_open=True, limits=Limits(body_bytes=10**9))

    assert harmed.ask("POST", START, on=loose, body=json.dumps({"input": "x" * 5_000_000}).encode()).status == 202


LENGTHS = ["-1", "+5", "5.0", "0x5", " 5 5", "5,5", "٥", "1e3", "99999999999999999999999999", "", "1_0"]


def test_a_length_that_is_none_is_refused(harmed):
    for length in LENGTHS:
        headers = {"content-type": "application/json", "content-length": length.encode().decode("latin-1")}

        assert harmed.ask("POST", START, headers=headers, body=b"{}").status in {400, 413}, length


def test_two_lengths_and_a_length_beside_chunks_are_refused(harmed):
    both = {"content-type": "application/json", "content-length": "2", "transfer-encoding": "chunked"}

    assert harmed.ask("POST", START, headers=both, body=b"{}").status == 400


def test_a_compressed_body_is_refused_unread(harmed):
    for encoding in ("gzip", "deflate", "br", "zstd", "GZIP", "gzip, identity", "x"):
        bomb = gzip.compress(b"\0" * 10_000_000)
        headers = {"content-type": "application/json", "content-encoding": encoding}

        assert harmed.ask("POST", START, headers=headers, body=bomb).status == 415


def test_a_form_is_refused_unread(harmed):
    for kind in ("multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "application/octet-stream"):
        parts = (
            b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + b"x" * 5000 + b"\r\n--x--\r\n"
        )

        assert harmed.ask("POST", START, headers={"content-type": kind}, body=parts).status == 415


def test_a_read_with_a_body_is_refused(harmed):
    assert harmed.ask("GET", "/api/executions", body=b"{}").status == 400


def test_a_body_that_does_not_come_in_time_is_refused_and_no_route_sees_it(harmed):
    quick = harmed.application(is_open=True, limits=Limits(body_seconds=0.2))
    harmed.start("mine")
    with listening(quick) as port:
        slow = raw("POST", RESUME, "Content-Type: application/json", "Content-Length: 30", body=b'{"input": 1}')
        begin = time.monotonic()
        with connected(port, slow) as client:
            answered = read_all(client)

    assert answered.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answered.lower()
    assert time.monotonic() - begin < 5
    assert harmed.app.store.inbox("mine") == []


def test_without_a_token_no_body_is_read(harmed):
    with listening(harmed.closed) as port:
        head = raw("POST", START, "Content-Type: application/json", f"Content-Length: {2**40}")
        with connected(port, head) as client:
            answered = read_all(client)

    assert answered.startswith(b"HTTP/1.1 401 ")


def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_nothing(harmed):
    harmed.start("mine")
    with listening(harmed.open) as port:
        for _ in range(20):
            connected(
                port, raw("POST", RESUME, "Content-Type: application/json", "Content-Length: 99", body=b"{")
            ).close()
        with connected(port, raw("GET", "/healthz", "Connection: close")) as client:
            assert read_all(client).startswith(b"HTTP/1.1 200 ")
    assert harmed.app.store.inbox("mine") == []


# -- what it costs, in a process of its own


def memory_peak(pid: int) -> int:
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def memory(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pushed(port: int, head: bytes, piece: bytes, count: int) -> bytes:
    """Send as much as is taken, then read the answer."""
    with connected(port, head) as client:
        try:
            for _ in range(count):
                client.sendall(piece)
        except OSError:
            pass
        return read_all(client)


def head(*lines: str) -> bytes:
    return raw("POST", START, "Content-Type: application/json", "Connection: close", *lines)


MB = 1024 * 1024
FORM = "Content-Type: multipart/form-data; boundary=x"
VALUES = (b'{"input":[' + b"[]," * 1_398_101)[: 4 * MB - 1]
NAMES = (b'{"' + b'abcdefg":0,"' * 60080)[:0xB0000]
HOSTILE = {
    "100 MB that say so": (head(f"Content-Length: {100 * MB}"), b"x" * MB, 100),
    "chunks without end": (head("Transfer-Encoding: chunked"), b"100000\r\n" + b"x" * MB + b"\r\n", 100),
    "100 MB that say they are few": (head("Content-Length: 5"), b"x" * MB, 100),
    "small chunks without end": (head("Transfer-Encoding: chunked"), b"1\r\nx\r\n" * 20_000, 100),
    "a million names": (head("Transfer-Encoding: chunked"), b"b0000\r\n" + NAMES + b"\r\n", 20),
    "a compressed body": (head(f"Content-Length: {20 * MB}", "Content-Encoding: gzip"), b"x" * MB, 20),
    "a form": (raw("POST", START, FORM, f"Content-Length: {50 * MB}"), b"x" * MB, 50),
    "values without end": (head(f"Content-Length: {4 * MB - 1}"), VALUES, 1),
    "levels without end": (head(f"Content-Length: {4 * MB}"), b"[" * (4 * MB), 1),
    "quotes without end": (head(f"Content-Length: {4 * MB}"), b'"\\' * (2 * MB), 1),
    "a header without end": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x" * MB, 50),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hostile_body_costs_little_memory_and_time(server):
    pid, port = server
    for what, (begin, piece, count) in HOSTILE.items():
        before, used = memory(pid), cpu_seconds(pid)
        status = pushed(port, begin, piece, count).split(b" ", 2)[1:2]
        grown, took = memory_peak(pid) - before, cpu_seconds(pid) - used
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # The peak counts anew.
        print(f"{time.monotonic():.2f} {what}: {status}, {grown / MB:.1f} MB, {took:.2f} s")

        assert status in ([], [b"400"], [b"413"], [b"415"], [b"422"]), what
        assert grown < 32 * MB, what
        assert took <= 1.0, what
    assert pushed(port, raw("GET", "/healthz", "Connection: close"), b"", 0).split()[1] == b"200"
