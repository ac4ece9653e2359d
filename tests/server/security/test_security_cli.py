"""Tokens on the command line, and where a server listens."""

import json
import re
import socket

import pytest

from e2e.command import run, start
from server.security.hostile import JSON, connected, raw, read_all


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def answered(port: int, *lines: str, target: str = "/api/executions", method: str = "GET") -> int:
    with connected(port, raw(method, target, "Connection: close", *lines)) as client:
        return int(read_all(client).split()[1])


@pytest.mark.slow
def test_others_are_served_only_once_there_is_a_token(folder):
    for host in ("0.0.0.0", "::", socket.gethostname(), "192.0.2.1"):
        refused = run(folder, "server", "--host", host, "--port", "0")

        assert refused.returncode == 2
        assert "flux tokens create NAME" in refused.stderr
    made = run(folder, "tokens", "create", "ops", "--role", "operator", "--expires", "30d")
    token = made.stdout.strip()
    assert re.fullmatch(r"flux_[\w-]{43}", token, re.ASCII)

    with start(folder, "server", "--host", "0.0.0.0", "--port", "0") as process:
        try:
            port = int(re.search(r":(\d+)\s", process.stderr.readline())[1])
            assert answered(port) == 401
            assert answered(port, f"Authorization: Bearer {token}") == 200
            assert answered(port, f"Authorization: Bearer {token}", target="/api/tokens") == 403
            assert run(folder, "tokens", "revoke", "ops").returncode == 0
            assert answered(port, f"Authorization: Bearer {token}") == 401
        finally:
            process.terminate()
        assert process.wait(15) == 0


@pytest.mark.slow
def test_a_token_is_listed_without_what_is_secret_about_it(folder):
    made = json.loads(run(folder, "tokens", "create", "bob", "--role", "admin", "--json").stdout)
    listed = run(folder, "tokens", "list", "--json").stdout
    table = run(folder, "tokens", "list").stdout

    assert made["token"] not in listed + table
    assert {name: json.loads(listed)[name] for name in ("name", "role", "expires_at")} == {
        "name": "bob", "role": "admin", "expires_at": None,
    }  # fmt: skip
    assert re.search(r"bob +admin +\S+ +never", table)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_with_what_to_do(folder):
    assert run(folder, "tokens", "revoke", "bob").returncode == 3
    assert "flux tokens create NAME" in run(folder, "tokens", "list").stderr
    run(folder, "tokens", "create", "bob")
    for words, code, said in [
        (("create", "bob"), 2, "another name"),
        (("create", "x", "--expires", "soon"), 2, "30d"),
        (("create", "x", "--expires", "0d"), 2, "30d"),
        (("create", "x", "--role", "root"), 2, "--help"),
        (("create", "x\ny"), 2, "letters"),
        (("create", "a/b"), 2, "letters"),
        (("create", ""), 2, "letters"),
        (("revoke", "nobody"), 3, "flux tokens list"),
    ]:
        refused = run(folder, "tokens", *words)

        assert (refused.returncode, said in refused.stderr) == (code, True), words
        assert refused.stdout == ""


@pytest.mark.slow
def test_a_server_says_nothing_of_what_strangers_send(server_process):
    process, port = server_process
    forged = "x\x1b[31m%0d%0aerror:%20forged"
    with connected(port, b"\x16\x03\x01\x00 no HTTP\r\n\r\n") as client:
        assert read_all(client).startswith(b"HTTP/1.1 400 ")
    for target in (f"/api/executions/{forged}", "/api/executions/x%0d%0ax", "/%1b[2J"):
        answered(port, f"User-Agent: {forged}", "Upgrade: websocket", target=target.replace("\x1b", "%1b"))
    for name in [*JSON, "X-Forwarded-For", "Referer"]:
        answered(port, f"{name}: error: forged%s{{}}")
    process.terminate()
    _, said = process.communicate(timeout=15)

    assert "forged" not in said
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said)


@pytest.fixture
def server_process(tmp_path):
    process = start(tmp_path, "server", "--port", "0")
    yield process, int(re.search(r":(\d+)\s", process.stderr.readline())[1])
    process.kill()
    process.wait(10)
    process.stdout.close()
    process.stderr.close()
