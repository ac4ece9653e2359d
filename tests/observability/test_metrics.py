"""Metrics: what happened here is counted, what the database holds is asked for seldom, and the page stays small."""

import asyncio
import re
import time

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from docs.running import ROOT
from flux import ExecutionContext, pause, serde, task, telemetry, workflow
from flux.api import guard
from flux.api.application import create_application
from flux.catalogue import StoredToken
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.engine.children import scheduled
from flux.errors import StoreError
from flux.observability import metrics as metrics_module
from flux.observability.metrics import Metrics
from flux.ports import MessageKind, NewExecution
from flux.server.tokens import digest
from flux.store.sqlite import SqliteStore

SECOND = 1_000_000


class Clock:
    """Says what the test says."""

    def __init__(self, seconds=1000.0):
        self.seconds = seconds

    def now(self):
        return round(self.seconds * SECOND)

    def monotonic(self):
        return self.seconds


def read(metrics):
    """The samples of the page, by name and the value of their label."""
    page, _ = metrics.render()
    families = text_string_to_metric_families(page.decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("flux_")
    }


@pytest.fixture
def app(make_app):
    return make_app()


# -- counting


@task.with_options(retry_max_attempts=1, retry_delay=0)
async def shaky(n: int) -> int:
    if n:
        raise ValueError
    return n


@workflow
async def sell(ctx: ExecutionContext[int]) -> None:
    await shaky(ctx.input)


@workflow
async def ask(ctx: ExecutionContext) -> None:
    await pause("boss")


def test_executions_and_attempts_are_counted_as_they_go(app):
    async def work():
        metrics = Metrics(app.catalogue, app.clock)
        metrics.start()
        await sell.run_async(0)
        await sell.run_async(0)
        await sell.run_async(1)
        paused = await ask.run_async()
        app.send_cancel(paused.execution_id)
        await app.engine.run(ask.definition, paused.execution_id)
        await metrics.stop()
        await sell.run_async(0)  # Not counted any more.
        return metrics

    found = read(asyncio.run(work()))

    assert found["flux_executions_started_total", "sell"] == 3
    assert found["flux_executions_completed_total", "sell"] == 2
    assert found["flux_executions_failed_total", "sell"] == 1
    assert found["flux_executions_started_total", "ask"] == 1
    assert found["flux_executions_cancelled_total", "ask"] == 1
    assert found["flux_task_attempts_total", "shaky"] == 4
    assert found["flux_task_retries_total", "shaky"] == 1
    assert found["flux_task_failures_total", "shaky"] == 1
    assert found["flux_execution_duration_seconds_count", "sell"] == 3
    assert 0 < found["flux_execution_duration_seconds_sum", "sell"] < 60
    assert found["flux_executions", "COMPLETED"] == 3
    assert (found["flux_database_up",], found["flux_workers",]) == (1, 1)


def test_an_execution_that_its_sender_ends_at_once_is_counted_by_the_sender(app):
    async def work():
        metrics = Metrics(app.catalogue, app.clock)
        metrics.start()
        paused = await ask.run_async()
        await ask.cancel_async(paused.execution_id, now=True)
        await metrics.stop()
        return metrics

    found = read(asyncio.run(work()))

    assert found["flux_executions_cancelled_total", "ask"] == 1
    assert found["flux_execution_duration_seconds_count", "ask"] == 1


def appended(workflow, *types, seconds=0.0, name=None):
    events = [
        ExecutionEvent("x", n, type_, "", name or workflow, None, None, time_us=round(seconds * SECOND))
        for n, type_ in enumerate(types, 1)
    ]
    telemetry.emit("events.appended", execution_id="x", workflow=workflow, begun_us=0, events=events)


@pytest.fixture
def counting(app):
    """Metrics that listen, and a clock that stands."""
    metrics = Metrics(app.catalogue, Clock())
    detach = telemetry.attach(metrics._hear)
    yield metrics
    detach()


def test_a_duration_is_in_every_bucket_from_its_own_on(counting):
    appended("sell", Type.WORKFLOW_COMPLETED, seconds=0.1)
    appended("sell", Type.WORKFLOW_FAILED, seconds=7)
    appended("sell", Type.WORKFLOW_CANCELLED, seconds=1e6)
    page = counting.render()[0].decode()

    buckets = dict(re.findall(r'duration_seconds_bucket\{le="([^"]+)",workflow="sell"\} (\S+)', page))
    assert {bound: buckets[bound] for bound in ("0.05", "0.1", "5", "10", "86400", "+Inf")} == {
        "0.05": "0.0",
        "0.1": "1.0",
        "5": "1.0",
        "10": "2.0",
        "86400": "2.0",
        "+Inf": "3.0",
    }


def test_many_names_share_one_label(counting, monkeypatch):
    monkeypatch.setattr(metrics_module, "LABELS", 3)
    for n in range(10):
        appended(f"w{n}", Type.WORKFLOW_STARTED)
        appended("w0", Type.TASK_STARTED, name=f'get "{n}"\n')
    appended("w1", Type.WORKFLOW_STARTED)
    found = read(counting)

    started = {key[1]: value for key, value in found.items() if key[0] == "flux_executions_started_total"}
    attempts = {key[1]: value for key, value in found.items() if key[0] == "flux_task_attempts_total"}
    assert started == {"w0": 1, "w1": 2, "w2": 1, "other": 7}
    assert attempts == {'get "0"\n': 1, 'get "1"\n': 1, 'get "2"\n': 1, "other": 7}


def test_what_the_process_tells_is_counted(counting):
    telemetry.emit("executions.rescued", executions=3, quarantined=1)
    telemetry.emit("lines.dropped", lines=40)
    telemetry.emit("store.failed", error=StoreError("x"))
    telemetry.emit("worker.superseded", worker="w")
    telemetry.emit("execution.claimed", execution_id="x", running=1)
    telemetry.emit("execution.claimed", execution_id="y", running=2)
    telemetry.emit("execution.left", execution_id="x", running=1)
    found = read(counting)

    assert found["flux_rescues_total",] == 3
    assert found["flux_quarantined_total",] == 1
    assert found["flux_lines_dropped_total",] == 40
    assert found["flux_store_failures_total",] == 1
    assert found["flux_worker_superseded_total",] == 1
    assert found["flux_worker_claims_total",] == 2
    assert found["flux_worker_running",] == 1


def test_a_worker_tells_what_it_takes_and_leaves(app):
    heard = []
    detach = telemetry.attach(lambda name, fields: heard.append((name, fields.get("running"))))
    control = app.control([sell.definition])
    control.start("sell", 0)
    asyncio.run(app.worker([sell.definition]).run(once=True))
    detach()

    assert [each for each in heard if each[0].startswith("execution.")] == [
        ("execution.claimed", 1),
        ("execution.left", 0),
    ]


def test_a_rescue_tells_how_many_it_took_back(app, workdir):
    app.store.register_worker("dead", lease_expires_at=1)
    create = NewExecution(workflow="sell", version="1", created_at=1, worker="dead")
    append = scheduled("x", create, serde.encode(None))
    append.state, append.fence = append.state.RUNNING, 1
    app.store.append([append])
    heard = []
    detach = telemetry.attach(lambda name, fields: heard.append((name, fields)))
    other = SqliteStore(app.settings.database)
    rescued = [other.rescue(now=app.clock.now()), other.rescue(now=app.clock.now())]
    detach()
    other.close()

    assert rescued == [1, 0]
    assert heard == [("executions.rescued", {"executions": 1, "quarantined": 0})]


def test_a_loop_that_stood_still_shows(app):
    async def block():
        metrics = Metrics(app.catalogue, app.clock)
        metrics.start()
        await asyncio.sleep(0)
        time.sleep(metrics_module.LAG_SECONDS + 0.2)  # The fault: nobody else runs meanwhile.
        while not metrics._lags:
            await asyncio.sleep(0.01)
        await metrics.stop()
        return read(metrics)["flux_loop_lag_seconds",]

    assert asyncio.run(block()) >= 0.15


# -- the database


class Counting:
    """A catalogue that counts how often it is asked, and may fail."""

    def __init__(self, catalogue):
        self.catalogue, self.asked, self.is_lost = catalogue, 0, False

    def figures(self, *, now):
        self.asked += 1
        if self.is_lost:
            raise StoreError("gone")
        return self.catalogue.figures(now=now)


def test_the_database_is_asked_once_in_five_seconds_however_often_the_page_is_read(app):
    catalogue, clock = Counting(app.catalogue), Clock()
    metrics = Metrics(catalogue, clock)
    for _ in range(20):
        read(metrics)
        clock.seconds += 0.49  # 9.8 s in all.

    assert catalogue.asked == 2


def test_a_database_that_is_slow_is_asked_more_seldom(app):
    clock = Clock()

    class Slow(Counting):
        def figures(self, *, now):
            clock.seconds += 2
            return super().figures(now=now)

    catalogue = Slow(app.catalogue)
    metrics = Metrics(catalogue, clock)
    for _ in range(36):
        read(metrics)
        clock.seconds += 0.5  # 18 s and the 2 s of the first look.

    assert catalogue.asked == 1


def test_a_database_that_is_lost_shows_and_the_rest_stays(app):
    catalogue, clock = Counting(app.catalogue), Clock()
    metrics = Metrics(catalogue, clock)
    assert read(metrics)["flux_database_up",] == 1
    catalogue.is_lost, clock.seconds = True, 2000.0
    lost = read(metrics)
    catalogue.is_lost, clock.seconds = False, 3000.0

    assert lost["flux_database_up",] == 0
    assert ("flux_executions", "RUNNING") in lost
    assert read(metrics)["flux_database_up",] == 1


def due(app, execution_id, *, at, wake_at=None, blocked=None):
    create = NewExecution(workflow="sell", version="1", created_at=round(at * SECOND))
    append = scheduled(execution_id, create, serde.encode(None))
    append.wake_at = wake_at and round(wake_at * SECOND)
    append.blocked_reason = blocked
    app.store.append([append])


def age(app, now=1000.0):
    return read(Metrics(app.catalogue, Clock(now)))["flux_queue_age_seconds",]


def test_the_age_of_the_queue_is_that_of_the_execution_due_longest(app):
    assert age(app) == 0
    due(app, "later", at=100, wake_at=2000)
    due(app, "blocked", at=200, blocked="poison")
    assert app.catalogue.figures(now=1000 * SECOND).oldest_due_at is None
    due(app, "woken", at=300, wake_at=990)
    assert age(app) == 10
    due(app, "new", at=980)
    assert age(app) == 20
    assert read(Metrics(app.catalogue, Clock()))["flux_executions_blocked",] == 1
    assert read(Metrics(app.catalogue, Clock()))["flux_executions", "SCHEDULED"] == 4


def test_an_execution_that_was_answered_is_due_since_then(app):
    paused = ask.run()
    started = app.store.events(paused.execution_id)[-1].time_us
    now = started / SECOND + 100
    assert age(app, now) == 0
    app.store.send(
        paused.execution_id, kind=MessageKind.SIGNAL, name="x", data=serde.encode(1), now=started + 90 * SECOND
    )

    assert age(app, now) == pytest.approx(10, abs=0.01)


# -- the page


def scrape(app, *, is_open, headers=None):
    async def ask_for_it():
        access = guard.Access(
            hosts=frozenset({"localhost"}), find=app.catalogue.find_token, clock=app.clock, is_open=is_open
        )
        application = create_application(app.control(), access=access)
        async with application.router.lifespan_context(application):
            transport = httpx2.ASGITransport(application)
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.get("/metrics", headers=headers)

    return asyncio.run(ask_for_it())


def test_the_page_is_behind_the_guard(app):
    token = StoredToken(name="p", digest=digest("s3cret-token"), role="viewer", created_at=1, expires_at=None)
    app.catalogue.add_token(token)

    assert scrape(app, is_open=False).status_code == 401
    given = scrape(app, is_open=False, headers={"Authorization": "Bearer s3cret-token"})
    assert given.status_code == 200
    assert given.headers["content-type"].startswith("text/plain; version=")
    assert "flux_executions_started_total" in given.text
    assert scrape(app, is_open=True, headers={"Host": "evil.example"}).status_code == 400


def test_a_reader_of_openmetrics_is_given_that(app):
    given = scrape(app, is_open=True, headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert given.headers["content-type"].startswith("application/openmetrics-text")
    assert given.text.endswith("# EOF\n")


def test_every_metric_is_documented_and_nothing_else(app):
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `(flux_\w+)", page, flags=re.MULTILINE))
    families = text_string_to_metric_families(Metrics(app.catalogue, Clock()).render()[0].decode())

    there = {family.name + "_total" * (family.type == "counter") for family in families}
    assert {name for name in there if name.startswith("flux_")} == documented
