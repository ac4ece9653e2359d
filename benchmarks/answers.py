"""W10: what a request costs, beside the run that it asks for and beside a route that only commits."""

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.measuring import (
    ROOT,
    Row,
    Scale,
    WrongResultError,
    child_environment,
    database,
    divide,
    interleave,
    require,
)
from flux import ExecutionContext, task, workflow

HELLO = """
from flux import ExecutionContext, task, workflow

@task
async def greet(name: str) -> str:
    return f"Hello, {name}!"

@workflow
async def hello(ctx: ExecutionContext[str]) -> str:
    return await greet(ctx.input)
"""
BARE = ROOT / "tests" / "e2e" / "bare.py"
CLIENTS, REQUESTS, PATIENCE_SECONDS = 8, 30, 20
BODY, HEADERS = json.dumps({"input": "World"}), {"Content-Type": "application/json"}
DEV = ("dev", "--no-reload")
ROUTE = "/api/workflows/hello/executions"


@task
async def greet(name: str) -> str:
    """A greeting."""
    return f"Hello, {name}!"


@workflow
async def hello(ctx: ExecutionContext[str]) -> str:
    """The same workflow as the server's."""
    return await greet(ctx.input)


@contextmanager
def _process(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with this."""
    folder.mkdir()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=child_environment(), stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _until_it_answers(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection(address, timeout=1)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.02)
        finally:
            connection.close()
    raise WrongResultError(f"a server does not answer on {address}: {log.read_text('utf-8')[-1000:]}")


@contextmanager
def _flux(folder: Path, *command: str) -> Iterator[str]:
    """The address of a server of one workflow: `flux dev`, which runs it as well, or `flux server`."""
    (folder.parent / "hello.py").write_text(HELLO, "utf-8")
    port = _free_port()
    with _process(folder, "-m", "flux", *command, "../hello.py", "--port", port) as process:
        _until_it_answers(f"127.0.0.1:{port}", process, folder / "log")
        yield f"127.0.0.1:{port}"


@contextmanager
def _bare(folder: Path) -> Iterator[str]:
    """The address of a route that parses the same body and makes one durable commit."""
    port = _free_port()
    with _process(folder, str(BARE), port) as process:
        _until_it_answers(f"127.0.0.1:{port}", process, folder / "log")
        yield f"127.0.0.1:{port}"


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return str(bound.getsockname()[1])


def _post(connection: http.client.HTTPConnection, query: str, *statuses: int) -> dict[str, str]:
    connection.request("POST", ROUTE + query, BODY, HEADERS)
    answer = connection.getresponse()
    text = answer.read()
    require(answer.status in statuses, f"a start is answered with {answer.status}: {text[:200]!r}")
    shown: dict[str, str] = json.loads(text)
    return shown


def _seconds_of_request(connection: http.client.HTTPConnection) -> float:
    began = time.perf_counter()
    shown = _post(connection, "?wait=10", 200)
    taken = time.perf_counter() - began
    require(shown["output"] == "Hello, World!", f"a request that waits is answered with {shown}")
    return taken


def _seconds_of_run() -> float:
    began = time.perf_counter()
    ctx = hello.run("World")
    taken = time.perf_counter() - began
    require(ctx.output == "Hello, World!", f"a direct run gave {ctx.output}")
    return taken


def _starts_a_second(address: str, seconds: float) -> float:
    """How many starts several clients get answered, each on a connection of its own."""
    until = time.perf_counter() + seconds

    def client(_: int) -> int:
        connection, count = http.client.HTTPConnection(address, timeout=PATIENCE_SECONDS), 0
        while time.perf_counter() < until:
            _post(connection, "", 202, 200)  # It may be quick.
            count += 1
        connection.close()
        return count

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(client, range(CLIENTS))) / seconds


def answered(scale: Scale) -> list[Row]:
    """W10: requests one at a time beside `run()`, and starts a second beside the bare route."""
    rounds, seconds = (3, 0.5) if scale.is_short else (7, 1.0)
    with database(scale.folder), _flux(scale.folder / "flux", *DEV) as address:
        connection = http.client.HTTPConnection(address, timeout=PATIENCE_SECONDS)
        sides = {"request": lambda: _seconds_of_request(connection), "run": _seconds_of_run}
        interleave(REQUESTS, sides)  # Warm.
        pairs = [interleave(REQUESTS, sides) for _ in range(rounds)]
        connection.close()
    with (
        _bare(scale.folder / "bare") as bare,
        _flux(scale.folder / "server", "server") as server,
        _flux(scale.folder / "dev", *DEV) as dev,
    ):
        addresses = {"bare": bare, "server": server, "dev": dev}
        starts = interleave(
            1 + (2 if scale.is_short else 5),
            {name: lambda address=at: _starts_a_second(address, seconds) for name, at in addresses.items()},  # type: ignore[misc]
        )
    requests, runs = ([median(pair[name]) for pair in pairs] for name in ("request", "run"))
    return [
        Row(
            workload="W10",
            what="`POST …?wait` for hello world, p50",
            unit="ms",
            figures=[each * 1000 for each in requests],
            beside="`run()`",
            besides=[each * 1000 for each in runs],
            ratios=divide(requests, runs),
            must=3.0,
            at_most=True,
        ),
        _row_of_starts("starts at a server, eight clients", starts, "server", must=0.4),
        _row_of_starts("… which runs them at the same time", starts, "dev"),
    ]


def _row_of_starts(what: str, starts: dict[str, list[float]], side: str, *, must: float | None = None) -> Row:
    ours, bare = starts[side][1:], starts["bare"][1:]  # The first round warms them.
    return Row(
        workload="W10",
        what=what,
        unit="/s",
        figures=ours,
        beside="a route with one commit",
        besides=bare,
        ratios=divide(ours, bare),
        must=must,
    )
