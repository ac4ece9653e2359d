"""What a request costs beside the run that it asks for."""

import http.client
import json
import statistics
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import flux.app
from e2e.serving import serving
from flux import ExecutionContext, task, workflow

ROUNDS, WARM = 60, 15
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
