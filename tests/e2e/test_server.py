"""Servers and workers as real processes on one database: restarted, killed, reloaded and crowded."""

import asyncio
import collections
import contextlib
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from e2e.command import HEAD, wait_for
from e2e.serving import Served, free_port, serving

pytestmark = pytest.mark.slow

FILES = {
    "hello.py": """
@task
async def greet(name: str) -> str:
    return f"Hello, {name}!"

@workflow
async def hello(ctx: ExecutionContext[str]) -> str:
    return await greet(ctx.input)

@workflow
async def approve(ctx):
    return [ctx.input, await pause("approval")]
""",
    "work.py": """
import os, time

@task
async def act(execution, key, seconds):
    descriptor = os.open("effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{execution} {key} {time.time_ns() // 1000}\\n".encode())
    os.close(descriptor)
    await asyncio.sleep(seconds)
    return key

@workflow
async def work(ctx):
    return [await act(ctx.execution_id, key, ctx.input["seconds"]) for key in range(ctx.input["tasks"])]
""",
}


ANSWERS_EARLY = """
import time
from flux.engine.runner import Runner
from flux.store.sqlite import SqliteStore

begin, append = Runner.begin, SqliteStore._append

def early(self, told=None):
    begin(self)
    if told is not None:
        told()

def slowly(self, appends):
    time.sleep(0.1)
    return append(self, appends)

Runner.begin, SqliteStore._append = early, slowly
"""


@pytest.fixture
def site(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(f"{HEAD}{text}", "utf-8")
    return tmp_path


def effects(site: Path) -> dict[tuple[str, int], list[int]]:
    """When each task of each execution has acted."""
    found = collections.defaultdict(list)
    path = site / "effects"
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        execution, key, at = line.split()
        found[execution, int(key)].append(int(at))
    return found


# -- one server


def test_an_execution_is_started_and_its_result_awaited_in_one_request(site):
    with serving(site, "dev", "hello.py", "--port", "0") as served:
        answer = served.call("POST", "/workflows/hello/executions?wait=10", json={"input": "World"})

        assert (answer.status_code, answer.json()["output"]) == (200, "Hello, World!")
        assert served.stop() == 0


def test_a_paused_execution_answers_a_waiting_client_at_once_and_goes_on_when_it_is_answered(site):
    with serving(site, "dev", "hello.py", "--port", "0") as served:
        began = time.monotonic()
        shown = served.start("approve", 1, wait=30)
        assert (shown["state"], shown["pauses"]) == ("PAUSED", ["approval"])
        assert time.monotonic() - began < 5
        path = f"/executions/{shown['execution_id']}"
        assert served.post(f"{path}/resume?wait=10", {"input": "yes"})["output"] == [1, "yes"]
        fork = served.post(f"{path}/fork", {"seq": 1, "input": 2})
        served.until(fork["execution_id"], "PAUSED")
        served.post(f"/executions/{fork['execution_id']}/cancel?wait=10")
        assert served.until(fork["execution_id"], "CANCELLED")["forked_from"] == shown["execution_id"]
        again = served.post(f"/executions/{fork['execution_id']}/retry")
        assert served.until(again["execution_id"], "PAUSED")["input"] == 2


def test_a_server_without_a_worker_records_what_a_worker_runs_later(site):
    with serving(site, "server", "hello.py", "--port", "0") as served:
        shown = served.start("hello", "World")
        assert shown["state"] == "SCHEDULED"
        with serving(site, "worker", "hello.py"):
            assert served.until(shown["execution_id"], "COMPLETED")["output"] == "Hello, World!"
        assert served.stop() == 0


def started_and_killed(site, file):
    """The ids that a server answered right before it was killed."""
    with serving(site, "dev", file, "--port", "0", "--no-reload") as served:
        ids = [served.start("work", {"tasks": 3, "seconds": 0.05})["execution_id"] for _ in range(20)]
        assert served.stop(signal.SIGKILL) == -signal.SIGKILL
    return ids


def test_what_was_answered_survives_the_kill_of_the_server_that_runs_it(site):
    ids = started_and_killed(site, "work.py")

    with serving(site, "dev", "work.py", "--port", "0") as served:
        assert [served.until(id_, "COMPLETED")["output"] for id_ in ids] == [[0, 1, 2]] * 20
        began = served.get(f"/executions/{ids[-1]}/events")
    assert began[0]["type"] == "WORKFLOW_STARTED"  # It was not put aside before it ran.


def test_control_a_server_that_does_not_wait_for_its_commit_has_nothing_to_answer_with(site):
    (site / "early.py").write_text(f"{HEAD}{FILES['work.py']}{ANSWERS_EARLY}", "utf-8")

    with pytest.raises(AssertionError, match="there is no execution"):
        started_and_killed(site, "early.py")


def test_a_client_that_waits_is_answered_when_the_server_stops(site):
    with serving(site, "dev", "work.py", "--port", "0", "--no-reload") as served, ThreadPoolExecutor(1) as client:
        body = {"input": {"tasks": 1, "seconds": 20}}
        waiting = client.submit(served.call, "POST", "/workflows/work/executions?wait=15", json=body)
        wait_for(lambda: effects(site))
        assert served.stop() == 0
        answer = waiting.result(10)

    assert (answer.status_code, {answer.json()["execution_id"]}) == (202, {each for each, _ in effects(site)})
    assert "Traceback" not in served.text


class Reader:
    """Follows an execution by SSE, and connects anew with the last id whenever it is cut off."""

    def __init__(self, url: str, execution_id: str, *, resumes: bool = True) -> None:
        self.url, self.path, self._resumes = url, f"/api/executions/{execution_id}/stream", resumes
        self.ids: list[int] = []
        self.connections = 0
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        is_over = False
        while not is_over:
            headers = {"Last-Event-ID": str(self.ids[-1])} if self.ids and self._resumes else {}
            with contextlib.suppress(httpx2.TransportError):
                with httpx2.stream("GET", self.url + self.path, headers=headers, timeout=20) as answer:
                    self.connections += 1
                    for line in answer.iter_lines():
                        if line.startswith("id: "):
                            self.ids.append(int(line[4:]))
                        is_over = is_over or line == "event: end"
            time.sleep(0.05)


@pytest.mark.parametrize("resumes", [True, False])
def test_who_follows_an_execution_misses_nothing_when_the_server_is_restarted(site, resumes):
    """The control: a reader that does not say what it has seen, sees it twice."""
    port = free_port()
    with serving(site, "worker", "work.py"):
        server = Served(site, "server", "work.py", "--port", str(port)).ready()
        id_ = server.start("work", {"tasks": 40, "seconds": 0.2})["execution_id"]
        reader = Reader(server.url, id_, resumes=resumes)
        for signal_ in (signal.SIGTERM, signal.SIGKILL)[: 2 if resumes else 1]:
            seen = len(reader.ids)
            wait_for(lambda seen=seen: len(reader.ids) > seen + 5)
            server.stop(signal_)
            server = Served(site, "server", "work.py", "--port", str(port)).ready()
        reader.thread.join(40)
        last = server.get(f"/executions/{id_}")["last_seq"]
        server.stop()

    assert reader.connections >= 2
    assert (reader.ids == list(range(1, last + 1))) is resumes
    assert set(reader.ids) == set(range(1, last + 1))


# -- reload


def test_a_changed_file_is_served_anew_and_what_was_under_way_goes_on_with_it(site):
    port = free_port()
    slow = FILES["work.py"].replace("async def work(ctx):", "async def work(ctx):\n    # before")
    with serving(site, "dev", "work.py", "hello.py", "--port", str(port)) as served:
        id_ = served.start("work", {"tasks": 30, "seconds": 0.2})["execution_id"]
        wait_for(lambda: effects(site))
        (site / "hello.py").write_text(f"{HEAD}{FILES['hello.py']}".replace("Hello,", "Goodbye,"), "utf-8")
        (site / "work.py").write_text(f"{HEAD}{slow}", "utf-8")
        wait_for(lambda: served.text.count("listening on") == 2, seconds=20)
        wait_for(served.answers)
        assert served.start("hello", "World", wait=10)["output"] == "Goodbye, World!"
        assert served.until(id_, "COMPLETED")["output"] == list(range(30))
        assert max(len(times) for times in effects(site).values()) <= 2
        assert served.stop() == 0


@pytest.mark.parametrize("broken", ["def (:\n", "import nothing_of_this_name\n", "raise RuntimeError('at import')\n"])
def test_a_file_that_cannot_be_loaded_leaves_the_old_code_serving(site, broken):
    with serving(site, "dev", "hello.py", "--port", str(free_port())) as served:
        (site / "hello.py").write_text(f"{HEAD}{FILES['hello.py']}{broken}", "utf-8")
        wait_for(lambda: "the code from before goes on" in served.text, seconds=20)
        assert "error: " in served.text
        assert served.start("hello", "World", wait=10)["output"] == "Hello, World!"
        (site / "hello.py").write_text(f"{HEAD}{FILES['hello.py']}".replace("Hello,", "Mended,"), "utf-8")
        wait_for(lambda: served.text.count("listening on") == 2, seconds=20)
        wait_for(served.answers)
        assert served.start("hello", "World", wait=10)["output"] == "Mended, World!"


# -- several processes


def test_a_worker_that_is_killed_is_taken_over_at_once(site):
    with serving(site, "server", "work.py", "--port", "0") as server, serving(site, "worker", "work.py") as first:
        id_ = server.start("work", {"tasks": 20, "seconds": 0.2})["execution_id"]
        wait_for(lambda: len(effects(site)) > 2)
        with serving(site, "worker", "work.py"):
            wait_for(lambda: len(server.get("/workers")) == 2)
            assert first.stop(signal.SIGKILL) == -signal.SIGKILL
            killed_us, before = time.time_ns() // 1000, len(effects(site))
            wait_for(lambda: len(effects(site)) > before, seconds=13)
            taken_over_us = max(max(times) for times in effects(site).values())
            assert server.until(id_, "COMPLETED")["output"] == list(range(20))

    assert taken_over_us - killed_us < 13_000_000  # A lease and three seconds; the file lock makes it three.


class Crowd:
    """Requests of many clients at once, to several servers in turn."""

    def __init__(self, *servers: Served) -> None:
        self._urls = [server.url for server in servers]

    def post(self, count: int, path: str, body, **options) -> list[httpx2.Response]:
        async def all_of_them():
            limits = httpx2.Limits(max_connections=50)
            async with httpx2.AsyncClient(timeout=60, limits=limits) as client:
                urls = [f"{self._urls[n % len(self._urls)]}/api{path}" for n in range(count)]
                return await asyncio.gather(*(client.post(url, json=body, **options) for url in urls))

        return asyncio.run(all_of_them())


def test_a_hundred_equal_resumes_through_two_servers_answer_a_pause_once(site):
    with serving(site, "dev", "hello.py", "--port", "0") as one, serving(site, "server", "--port", "0") as two:
        id_ = one.start("approve", 1, wait=10)["execution_id"]
        answers = Crowd(one, two).post(100, f"/executions/{id_}/resume", {"input": "yes"})

        assert collections.Counter(answer.status_code for answer in answers) == {202: 1, 409: 99}
        assert one.until(id_, "COMPLETED")["output"] == [1, "yes"]
        events = one.get(f"/executions/{id_}/events")
        assert [event["type"] for event in events if event["type"] == "WORKFLOW_RESUMED"] == ["WORKFLOW_RESUMED"]


def test_two_hundred_starts_of_one_key_through_two_servers_are_one_execution(site):
    path, key = "/workflows/hello/executions", {"Idempotency-Key": "order-7"}
    with serving(site, "dev", "hello.py", "--port", "0") as one:
        with serving(site, "server", "--port", "0") as two:
            answers = Crowd(one, two).post(200, path, {"input": "World"}, headers=key)
            others = Crowd(one, two).post(4, path, {"input": "Moon"}, headers=key)
        ids = {answer.json()["execution_id"] for answer in answers}

        assert {answer.status_code for answer in answers} <= {200, 201, 202}
        assert len(ids) == 1
        assert [other.status_code for other in others] == [409] * 4
        assert len(one.get("/executions")["executions"]) == 1
        with serving(site, "server", "--port", "0") as three:
            (again,) = Crowd(three).post(1, path, {"input": "World"}, headers=key)
            (other,) = Crowd(three).post(1, path, {"input": "Moon"}, headers=key)
        assert again.json()["execution_id"] in ids
        assert other.status_code == 409


EXECUTIONS = int(os.environ.get("FLUX_TEST_SERVED", "200"))


def acted_too_late(site: Path, histories: dict[str, list[dict]]) -> list[str]:
    """The tasks that acted after their completion was recorded."""
    ended: dict[tuple[str, int], int] = {}
    for id_, events in histories.items():
        for event in events:
            if event["type"] == "TASK_COMPLETED":
                ended[id_, event["value"]] = _microseconds(event["time"])
    return [f"{id_} {key}" for (id_, key), times in effects(site).items() if max(times) > ended[id_, key]]


def _microseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.mark.timeout(180)
def test_two_servers_and_three_workers_complete_everything_while_some_are_killed(site):
    chance, tasks = random.Random(3), 5
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving(site, "server", "work.py", "--port", "0")) for _ in range(2)]
        workers = [stack.enter_context(serving(site, "worker", "work.py", "--grace", "1")) for _ in range(3)]
        body = {"tasks": tasks, "seconds": 0.3}
        ids = [servers[n % 2].start("work", body)["execution_id"] for n in range(EXECUTIONS // 2)]
        for _round in range(4):
            victim = chance.randrange(3)
            workers[victim].stop(chance.choice([signal.SIGKILL, signal.SIGTERM]))
            more = range(EXECUTIONS // 8)
            ids += [servers[n % 2].start("work", body)["execution_id"] for n in more]
            workers[victim] = stack.enter_context(serving(site, "worker", "work.py", "--grace", "1"))
        shown = [servers[0].until(id_, "COMPLETED", seconds=60) for id_ in ids]
        histories = {id_: servers[1].get(f"/executions/{id_}/events") for id_ in ids}

    assert [each["output"] for each in shown] == [list(range(tasks))] * len(ids)
    assert len(ids) == EXECUTIONS // 2 + 4 * (EXECUTIONS // 8)
    assert acted_too_late(site, histories) == []
    for events in histories.values():
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    interrupted = sum(len(times) - 1 for times in effects(site).values())
    assert 0 < interrupted  # Else nothing was killed in the middle.
    last = max(e["seq"] for e in histories[ids[0]] if e["type"] == "TASK_COMPLETED")
    histories[ids[0]][last - 1]["time"] = "2001-01-01T00:00:00+00:00"
    assert acted_too_late(site, histories) == [f"{ids[0]} {tasks - 1}"]  # The control of the check.
