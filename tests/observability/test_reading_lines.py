"""Kept lines over HTTP and on the command line: in order, page by page, to the end, and harmless to a terminal."""

import asyncio
import dataclasses
import json
from contextlib import asynccontextmanager

import httpx2
import pytest

from e2e import command
from flux import serde
from flux.api import lines as api_lines
from flux.api.application import create_application
from flux.api.guard import Access
from flux.api.surroundings import Surroundings
from flux.catalogue import Line
from flux.domain.execution import ExecutionState
from flux.engine.children import scheduled
from flux.observability import lines
from flux.ports import NewExecution
from flux.server.news import News


@pytest.fixture
def execution(app):
    """Stores an execution, which nobody runs."""

    def store(execution_id="order-7", texts=()):
        create = NewExecution(workflow="sell", version="1", created_at=app.clock.now())
        app.store.append([scheduled(execution_id, create, serde.encode(None))])
        say(app, execution_id, *texts)
        return execution_id

    return store


def say(app, execution_id, *texts, stream="stdout"):
    line = {"id": 0, "execution_id": execution_id, "call_id": "1", "task": "pack", "stream": stream}
    app.catalogue.add_lines([Line(**line, text=text, time_us=1_700_000_000_000_000) for text in texts], most=100)


@asynccontextmanager
async def client(app):
    access = Access(hosts=frozenset({"localhost"}), find=app.catalogue.find_token, clock=app.clock, is_open=True)
    application = create_application(app.control(), access=access)
    async with application.router.lifespan_context(application):
        transport = httpx2.ASGITransport(application)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client


def get(app, path, headers=None, **parameters):
    async def ask():
        async with client(app) as http:
            return await http.get(path, params=parameters, headers=headers)

    return asyncio.run(ask())


# -- HTTP


def test_lines_are_given_in_order_and_page_by_page(app, execution):
    execution(texts=["one", "two", "three"])
    first = get(app, "/api/executions/order-7/lines", limit=2).json()
    rest = get(app, "/api/executions/order-7/lines", after=first[-1]["id"]).json()

    assert [line["text"] for line in first + rest] == ["one", "two", "three"]
    assert first[0] == {
        "id": 1,
        "call_id": "1",
        "task": "pack",
        "stream": "stdout",
        "text": "one",
        "time": "2023-11-14T22:13:20Z",
    }


def test_lines_of_an_unknown_execution_and_odd_pages_are_refused(app, execution):
    execution()

    assert get(app, "/api/executions/none/lines").status_code == 404
    assert get(app, "/api/executions/none/lines/stream").status_code == 404
    assert get(app, "/api/executions/order-7/lines", limit=0).status_code == 422
    assert get(app, "/api/executions/order-7/lines", limit=10**6).status_code == 422
    assert get(app, "/api/executions/order-7/lines", after=-1).status_code == 422
    assert get(app, "/api/executions/order-7/lines").json() == []


def test_a_stream_of_lines_goes_on_after_the_last_one_seen_and_ends_with_the_execution(app, execution, monkeypatch):
    monkeypatch.setattr(api_lines, "PAGE", 2)  # More than one page.

    async def follow():
        execution(texts=["one", "two", "three"])
        news = News(app.store)
        control = app.control()
        stream = api_lines._lines(Surroundings(control, news), "order-7", 1)
        got = [await anext(stream), await anext(stream)]
        coming = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        say(app, "order-7", "four")
        got.append(await asyncio.wait_for(coming, 10))
        say(app, "order-7", "five")
        monkeypatch.setattr(lines, "are_complete", lambda row, now: True)
        got += [await asyncio.wait_for(anext(stream), 10), await asyncio.wait_for(anext(stream), 10)]
        await news.stop()
        return got

    got = asyncio.run(follow())

    assert [part.partition("\n")[0] for part in got] == ["id: 2", "id: 3", "id: 4", "id: 5", "event: end"]
    assert json.loads(got[2].split("data: ")[1])["text"] == "four"


def test_a_stream_begins_after_the_last_id_of_the_client(app, execution, monkeypatch):
    monkeypatch.setattr(lines, "are_complete", lambda row, now: True)
    execution(texts=["one", "two", "three"])
    path = "/api/executions/order-7/lines/stream"

    def ids(**asked):
        answer = get(app, path, **asked)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.endswith("event: end\ndata: {}\n\n")
        return [part.partition("\n")[0] for part in answer.text.split("\n\n")[:-2]]

    assert ids() == ["id: 1", "id: 2", "id: 3"]
    assert ids(after=1) == ["id: 2", "id: 3"]
    assert ids(after=1, headers={"Last-Event-ID": "2"}) == ["id: 3"]


def test_lines_are_complete_only_when_none_can_be_on_its_way(app, execution):
    row = app.row(execution())
    ended = dataclasses.replace(row, state=ExecutionState.COMPLETED, finished_at=5_000_000)

    assert not lines.are_complete(row, 10**18)
    assert not lines.are_complete(ended, 5_000_000)
    assert lines.are_complete(ended, 5_000_000 + lines.LATE_US)


# -- the command line

PROGRAM = (
    command.HEAD
    + r"""
import logging, sys

@task
async def pack(n: int) -> None:
    print(f"packed {n}")
    print("\x1b[2Jall is well\u2028\u202e\x07", file=sys.stderr)
    logging.getLogger("shop").warning("no tape")


@workflow
async def sell(ctx: ExecutionContext[int]) -> None:
    await pack(ctx.input)
"""
)


@pytest.mark.slow
def test_the_command_shows_lines_and_a_terminal_obeys_none_of_them(workdir):
    (workdir / "shop.py").write_text(PROGRAM)
    ran = command.run(workdir, "run", "shop.py", "7", "--id", "order-7", FLUX_KEEP_OUTPUT="1")
    assert ran.returncode == 0, ran.stderr
    shown = command.run(workdir, "executions", "logs", "order-7", "--follow")
    as_json = command.run(workdir, "executions", "logs", "order-7", "--json")

    lines = shown.stdout.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "pack #1 stderr: packed 7",
        r"pack #1 stderr: \x1b[2Jall is well\u2028\u202e\x07",
        "pack #1 WARNING: no tape",
    ]
    assert all(character.isprintable() or character == "\n" for character in shown.stdout + as_json.stdout)
    assert [json.loads(line)["text"] for line in as_json.stdout.splitlines()][1] == "\x1b[2Jall is well\u2028\u202e\x07"


@pytest.mark.slow
def test_the_command_says_why_there_is_nothing(workdir):
    (workdir / "shop.py").write_text(PROGRAM)
    command.run(workdir, "run", "shop.py", "7", "--id", "order-7")
    shown = command.run(workdir, "executions", "logs", "order-7")

    assert (shown.returncode, shown.stdout) == (0, "")
    assert "flux worker" in shown.stderr
    assert command.run(workdir, "executions", "logs", "none").returncode == 3
