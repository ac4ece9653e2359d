"""Real processes: what `flux dev` and `flux worker` keep, log and measure."""

import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager

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


def metrics_of(directory):
    command.wait_for(lambda: "metrics on" in (directory / "err").read_text())
    return re.search(r"metrics on (http://\S+)/metrics", (directory / "err").read_text())[1]


def test_a_worker_serves_what_it_counts_and_nothing_else(tmp_path):
    with serving(tmp_path, "worker", "shop.py", "--metrics-port", "0") as process:
        base = metrics_of(tmp_path)
        command.run(tmp_path, "run", "shop.py", "1")  # Makes another process count, not this one.
        started = 'flux_executions_started_total{workflow="sell"}'
        assert started not in httpx2.get(f"{base}/metrics").text
        start = "import shop, flux.app as a; a.current().control([shop.sell.definition]).start('sell', 2)"
        subprocess.run([sys.executable, "-c", start], cwd=tmp_path, env=command.environment(), check=True, timeout=20)
        command.wait_for(lambda: f"{started} 1.0" in httpx2.get(f"{base}/metrics").text)

        assert httpx2.get(f"{base}/healthz").json() == {"status": "ok"}
        assert [httpx2.get(f"{base}{path}").status_code for path in ("/api/executions", "/readyz", "/docs")] == [
            404
        ] * 3
        assert httpx2.post(f"{base}/metrics").status_code == 415  # Nothing is sent to it.
        assert httpx2.get(f"{base}/metrics", headers={"Host": "evil.example"}).status_code == 400
        foreign = httpx2.get(f"{base}/metrics", headers={"Origin": "http://evil.example"})
        assert "access-control-allow-origin" not in foreign.headers
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{base}/metrics")


def test_a_drain_can_be_watched_to_its_end(tmp_path):
    hold = "@task\nasync def hold():\n    pathlib.Path('held').touch()\n    while not pathlib.Path('go').exists():\n"
    hold += "        await asyncio.sleep(0.02)\n\n@workflow\nasync def held(ctx):\n    await hold()\n"
    (tmp_path / "hold.py").write_text(command.HEAD + hold)
    start = "import hold, flux.app as a; a.current().control([hold.held.definition]).start('held', None)"
    subprocess.run([sys.executable, "-c", start], cwd=tmp_path, env=command.environment(), check=True, timeout=20)
    with serving(tmp_path, "worker", "hold.py", "--metrics-port", "0") as process:
        base = metrics_of(tmp_path)
        command.wait_for((tmp_path / "held").exists)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)  # Whatever would end at once has ended by then.

        assert process.poll() is None
        assert "flux_worker_running 1.0" in httpx2.get(f"{base}/metrics").text
        (tmp_path / "go").touch()
        assert process.wait(20) == 0


def test_an_address_of_others_needs_a_token_for_metrics_too(tmp_path):
    (tmp_path / "shop.py").write_text(PROGRAM)
    words = ("worker", "shop.py", "--metrics-port", "0", "--metrics-host", "0.0.0.0")
    refused = command.run(tmp_path, *words)
    token = json.loads(command.run(tmp_path, "tokens", "create", "p", "--json").stdout)["token"]

    assert refused.returncode == 2 and "no token yet" in refused.stderr
    with serving(tmp_path, *words):
        base = metrics_of(tmp_path).replace("0.0.0.0", "127.0.0.1")
        assert httpx2.get(f"{base}/metrics").status_code == 401
        assert "flux_worker_running" in httpx2.get(f"{base}/metrics", headers={"Authorization": f"Bearer {token}"}).text
        assert httpx2.get(f"{base}/healthz").status_code == 200


@pytest.mark.parametrize("port", ["-1", "65536", "x", "taken", "host-alone"])
def test_a_bad_port_for_metrics_is_refused_before_anything_is_claimed(tmp_path, port):
    (tmp_path / "shop.py").write_text(PROGRAM)
    start = (
        "import shop, flux.app as a; a.current().control([shop.sell.definition]).start('sell', 2, execution_id='due')"
    )
    subprocess.run([sys.executable, "-c", start], cwd=tmp_path, env=command.environment(), check=True, timeout=20)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1]) if port == "taken" else port
        words = ["--metrics-host", "127.0.0.1"] if port == "host-alone" else [f"--metrics-port={number}"]
        refused = command.run(tmp_path, "worker", "shop.py", "--once", *words)

    assert refused.returncode == (1 if port == "taken" else 2) and "--metrics-port" in refused.stderr
    with closing(sqlite3.connect(tmp_path / ".flux" / "flux.db")) as database:
        assert database.execute("SELECT state, fence FROM executions").fetchall() == [("SCHEDULED", 0)]
