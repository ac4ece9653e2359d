"""Real processes: what `flux dev` and `flux worker` keep, log and measure."""

import json
import re
import signal
import time
from contextlib import contextmanager

import httpx2
import pytest

from e2e import command

PROGRAM = (
    command.HEAD
    + r"""
import logging, sys

@task
async def pack(n: int) -> int:
    print(f"packed {n}")
    logging.getLogger("shop").warning("no tape\nERROR forged")
    return n


@workflow
async def sell(ctx: ExecutionContext[int]) -> int:
    return await pack(ctx.input)
"""
)

pytestmark = pytest.mark.slow


@contextmanager
def serving(directory, *words):
    (directory / "shop.py").write_text(PROGRAM)
    with (directory / "out").open("w") as out, (directory / "err").open("w") as err:
        process = command.start(directory, *words, stdout=out, stderr=err)
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()


def address(directory):
    command.wait_for(lambda: "listening on" in (directory / "err").read_text())
    return re.search(r"http://[\d.:]+", (directory / "err").read_text())[0]


def test_a_development_server_keeps_and_logs_what_its_tasks_say(workdir):
    with serving(workdir, "dev", "shop.py", "--port", "0", "--log-format", "json") as process:
        url = address(workdir)
        started = httpx2.post(f"{url}/api/workflows/sell/executions?wait=10", json={"input": 7}, timeout=20).json()
        path = f"{url}/api/executions/{started['execution_id']}/lines"
        command.wait_for(lambda: len(httpx2.get(path).json()) == 3)
        found = httpx2.get(path).json()
        followed = httpx2.get(f"{path}/stream", timeout=20).text
        assert process.poll() is None

    assert [(line["stream"], line["text"]) for line in found] == [
        ("stdout", "packed 7"),
        ("WARNING", "no tape"),
        ("WARNING", "ERROR forged"),
    ]
    assert (followed.count("event: line"), followed.count("event: end")) == (3, 1)
    assert (workdir / "out").read_text() == "packed 7\n"
    records = [json.loads(line) for line in (workdir / "err").read_text().splitlines()]
    (tape,) = [record for record in records if record["logger"] == "shop"]
    assert tape["message"] == "no tape\nERROR forged"
    assert (tape["execution_id"], tape["task"], tape["attempt"]) == (started["execution_id"], "pack", 1)
    assert any(record["message"].startswith("listening on") for record in records)


def test_a_worker_that_stops_stores_the_last_lines(workdir):
    (workdir / "shop.py").write_text(PROGRAM)
    with serving(workdir, "dev", "shop.py", "--port", "0", "--no-reload") as process:
        url = address(workdir)
        started = httpx2.post(f"{url}/api/workflows/sell/executions?wait=10", json={"input": 7}, timeout=20).json()
        process.send_signal(signal.SIGTERM)  # A second one, of the manager, would end it at once.
        assert process.wait(20) == 0
        process.send_signal = lambda _: None
    shown = command.run(workdir, "executions", "logs", started["execution_id"], "--json")

    assert [json.loads(line)["text"] for line in shown.stdout.splitlines()] == ["packed 7", "no tape", "ERROR forged"]


def test_following_ends_with_the_execution_and_what_is_below_the_level_is_not_kept(workdir):
    with serving(workdir, "dev", "shop.py", "--port", "0", "--log-level", "error"):
        url = address(workdir)
        started = httpx2.post(f"{url}/api/workflows/sell/executions?wait=10", json={"input": 7}, timeout=20).json()
        began = time.monotonic()
        shown = command.run(workdir, "executions", "logs", started["execution_id"], "--follow", "--json")

    assert [json.loads(line)["text"] for line in shown.stdout.splitlines()] == ["packed 7"]
    assert time.monotonic() - began < 15
    assert "no tape" not in (workdir / "err").read_text()


def test_a_log_in_an_unknown_form_is_refused(workdir):
    (workdir / "shop.py").write_text(PROGRAM)
    refused = command.run(workdir, "worker", "shop.py", "--once", "--log-format", "xml")

    assert refused.returncode == 2
    assert "text or json" in refused.stderr
