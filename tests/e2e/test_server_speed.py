"""What a request costs beside the run that it asks for."""

import http.client
import json
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import flux.app
from e2e.command import wait_for
from e2e.serving import serving
from flux import ExecutionContext, task, workflow

ROUNDS, WARM = 60, 15
CLIENTS, SECONDS, ROUNDS_OF_STARTS = 8, 1.0, 4
HELLO = """
from flux import ExecutionContext, task, workflow

@task
async def greet(name: str) -> str:
    return f"Hello, {name}!"

@workflow
async def hello(ctx: ExecutionContext[str]) -> str:
    return await greet(ctx.input)
"""


@task
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@workflow
async def hello(ctx: ExecutionContext[str]) -> str:
    return await greet(ctx.input)


@pytest.mark.slow
def test_a_request_that_awaits_a_result_costs_less_than_five_runs(workdir: Path):
    (workdir / "server").mkdir()
    (workdir / "server" / "hello.py").write_text(HELLO, "utf-8")
    with serving(workdir / "server", "dev", "hello.py", "--port", "0", "--no-reload") as served:
        connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=20)

        def request() -> float:
            began, body = time.perf_counter(), json.dumps({"input": "World"})
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/api/workflows/hello/executions?wait=10", body, headers)
            assert json.loads(connection.getresponse().read())["output"] == "Hello, World!"
            return time.perf_counter() - began

        def direct() -> float:
            began = time.perf_counter()
            assert hello.run("World").output == "Hello, World!"
            return time.perf_counter() - began

        pairs = [(request(), direct()) for _ in range(WARM + ROUNDS)][WARM:]
        connection.close()
    flux.app.close_all()
    requests, runs = (statistics.median(each) * 1000 for each in zip(*pairs, strict=True))
    print(f"POST ?wait {requests:.2f} ms, run() {runs:.2f} ms")

    assert requests < 5 * runs


def starts_a_second(netloc: str) -> float:
    """How many starts several clients get answered, each on a connection of its own."""
    until = time.perf_counter() + SECONDS
    body, headers = json.dumps({"input": "World"}), {"Content-Type": "application/json"}

    def client(_: int) -> int:
        connection, count = http.client.HTTPConnection(netloc, timeout=20), 0
        while time.perf_counter() < until:
            connection.request("POST", "/api/workflows/hello/executions", body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status in {200, 202}  # It may be quick.
            count += 1
        connection.close()
        return count

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(client, range(CLIENTS))) / SECONDS


@pytest.mark.slow
def test_a_server_answers_a_third_as_many_starts_as_a_bare_route_that_commits(workdir: Path):
    (workdir / "hello.py").write_text(HELLO, "utf-8")
    port = str(free_port())
    bare = subprocess.Popen([sys.executable, str(Path(__file__).with_name("bare.py")), port], cwd=workdir)
    try:
        wait_for(lambda: answers(f"127.0.0.1:{port}"), seconds=20)
        with serving(workdir, "server", "hello.py", "--port", "0") as served:
            pairs = [
                (starts_a_second(urlsplit(served.url).netloc), starts_a_second(f"127.0.0.1:{port}"))
                for _ in range(ROUNDS_OF_STARTS)
            ]
    finally:
        bare.kill()
        bare.wait()
    ours, theirs = (statistics.median(each) for each in zip(*pairs[1:], strict=True))
    print(f"{ours:.0f} starts/s, a bare route {theirs:.0f}/s: {ours / theirs:.2f} of it")

    assert ours > 0.3 * theirs


def answers(netloc: str) -> bool:
    try:
        with socket.create_connection(tuple(netloc.split(":")), 1):
            return True
    except OSError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])
