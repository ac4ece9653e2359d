"""Metrics: what telemetry tells of this process, counted, and what the database holds, asked for now and then.

Counting is on the way of every event, so it does no more than add in dicts; what Prometheus reads is made when it asks.
"""

import asyncio
import bisect
import contextlib
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder

from flux import telemetry
from flux.catalogue import Catalogue
from flux.clock import Clock
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.figures import Figures
from flux.errors import StoreError

LABELS = 200  # So many workflows, and so many tasks, have figures of their own.
OTHER = "other"
LOOK_SECONDS, LOOK_SHARE = 5.0, 10  # The database is asked no more often, and at most a tenth of the time.
LAG_SECONDS, LAGS = 0.25, 60
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200, 86400)
MICROSECONDS = 1_000_000

# What is counted: by the type of the event, and by the name of the telemetry event and its field.
_EXECUTIONS = {
    Type.WORKFLOW_STARTED: ("flux_executions_started", "Executions that began here."),
    Type.WORKFLOW_COMPLETED: ("flux_executions_completed", "Executions that completed here."),
    Type.WORKFLOW_FAILED: ("flux_executions_failed", "Executions that failed here."),
    Type.WORKFLOW_CANCELLED: ("flux_executions_cancelled", "Executions that were cancelled here."),
}
_ENDS = frozenset({Type.WORKFLOW_COMPLETED, Type.WORKFLOW_FAILED, Type.WORKFLOW_CANCELLED})
_ATTEMPTS = ("flux_task_attempts", "First and further attempts of calls that began here.")
_RETRIES = ("flux_task_retries", "Attempts after the first.")
_TASKS = {
    Type.TASK_STARTED: (_ATTEMPTS,),
    Type.TASK_RETRY_STARTED: (_ATTEMPTS, _RETRIES),
    Type.TASK_FAILED: (("flux_task_failures", "Calls that failed for good."),),
}
_PROCESS = {
    "flux_rescues": ("executions.rescued", "executions", "Executions taken back from dead workers."),
    "flux_quarantined": ("executions.rescued", "quarantined", "Executions put aside: they ended too many workers."),
    "flux_worker_claims": ("execution.claimed", "", "Executions that the worker of this process took."),
    "flux_worker_superseded": ("worker.superseded", "", "Times that this process was taken for dead."),
    "flux_store_failures": ("store.failed", "", "Writes to the database that failed and were tried again."),
    "flux_lines_dropped": ("lines.dropped", "lines", "Lines that tasks printed faster than they can be kept."),
    "flux_bodies_stalled": ("body.stalled", "", "Bodies that computed for more than a second."),
}


class Metrics:
    """The metrics of one process and its database.

    Args:
        catalogue: Asked for what the database holds.
        clock: For how long executions have waited.
    """

    def __init__(self, catalogue: Catalogue, clock: Clock) -> None:
        self._catalogue, self._clock = catalogue, clock
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._workflows, self._tasks = _Labels(), _Labels()
        self._counts: Counter[tuple[str, str]] = Counter()  # By metric and label.
        self._durations: defaultdict[str, _Histogram] = defaultdict(_Histogram)
        self._told: Counter[str] = Counter()
        self._running = 0
        self._lags: deque[float] = deque(maxlen=LAGS)
        self._figures: Figures | None = None
        self._is_lost, self._look_at = False, 0.0
        self._detach: Callable[[], None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def start(self) -> None:
        """Begin to count, and to watch the running loop."""
        self._detach = telemetry.attach(self._hear)
        self._watching = asyncio.ensure_future(self._watch())

    async def stop(self) -> None:
        """Count no more."""
        if self._detach is not None and self._watching is not None:
            self._detach()
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page, and its content type; it may ask the database, so not from an event loop.

        Args:
            accept: What the reader understands, as in the header of that name.
        """
        self._look()
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    # -- counting

    def _hear(self, name: str, fields: dict[str, Any]) -> None:
        if name == "events.appended":
            self._appended(fields["workflow"], fields["begun_us"], fields["events"])
            return
        with self._lock:
            for metric, (event, field, _) in _PROCESS.items():
                if event == name:
                    self._told[metric] += fields[field] if field else 1
            if name in {"execution.claimed", "execution.left"}:
                self._running = fields["running"]

    def _appended(self, workflow: str, begun_us: int, events: Sequence[ExecutionEvent]) -> None:
        with self._lock:
            for event in events:
                if event.type in _TASKS:
                    task = self._tasks.of(event.name)
                    for metric, _ in _TASKS[event.type]:
                        self._counts[metric, task] += 1
                elif event.type in _EXECUTIONS:
                    label = self._workflows.of(workflow)
                    self._counts[_EXECUTIONS[event.type][0], label] += 1
                    if event.type in _ENDS:
                        self._durations[label].add((event.time_us - begun_us) / MICROSECONDS)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self._lags.append(max(0.0, loop.time() - due))

    # -- the database

    def _look(self) -> None:
        """Ask the database, unless that was done a moment ago, or is being done."""
        if self._clock.monotonic() < self._look_at or not self._looking.acquire(blocking=False):
            return
        try:
            began = self._clock.monotonic()
            with contextlib.suppress(StoreError, OSError):
                self._is_lost = True
                self._figures = self._catalogue.figures(now=self._clock.now())
                self._is_lost = False
            took = self._clock.monotonic() - began
            self._look_at = began + max(LOOK_SECONDS, took * LOOK_SHARE)
        finally:
            self._looking.release()

    # -- what Prometheus reads

    def collect(self) -> Iterator[Metric]:
        """Every figure, as prometheus_client wants them."""
        with self._lock:  # Not for longer than it takes to copy: who counts waits.
            counts, told = dict(self._counts), dict(self._told)
            durations = [(name, each.cumulated(), each.sum) for name, each in self._durations.items()]
        for name, text in _EXECUTIONS.values():
            yield _labelled(counts, name, text, "workflow")
        for name, text in dict.fromkeys(pair for pairs in _TASKS.values() for pair in pairs):
            yield _labelled(counts, name, text, "task")
        took = HistogramMetricFamily("flux_execution_duration_seconds", "From creation to end.", labels=["workflow"])
        for workflow, buckets, total in durations:
            took.add_metric([workflow], buckets=buckets, sum_value=total)
        yield took
        for name, (_, _, text) in _PROCESS.items():
            yield CounterMetricFamily(name, text, told.get(name, 0))
        yield GaugeMetricFamily("flux_worker_running", "Executions that run in this process's worker.", self._running)
        lag = max(tuple(self._lags), default=0.0)
        yield GaugeMetricFamily("flux_loop_lag_seconds", "The longest wait of the event loop, of the last 15 s.", lag)
        yield from self._of_the_database()

    def _of_the_database(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("flux_database_up", "Whether the database could be read.", not self._is_lost)
        figures = self._figures
        if figures is None:
            return
        states = GaugeMetricFamily("flux_executions", "Executions in each state.", labels=["state"])
        for state, count in figures.states.items():
            states.add_metric([state.value], count)
        yield states
        due = figures.oldest_due_at
        age = max(0.0, (self._clock.now() - due) / MICROSECONDS) if due is not None else 0.0
        yield GaugeMetricFamily("flux_queue_age_seconds", "For how long the oldest due execution has waited.", age)
        yield GaugeMetricFamily("flux_executions_blocked", "Executions that no worker can run.", figures.blocked)
        yield GaugeMetricFamily("flux_workers", "Processes that run executions.", figures.workers)


def _labelled(counts: Mapping[tuple[str, str], int], name: str, text: str, label: str) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for (metric, value), count in counts.items():
        if metric == name:
            family.add_metric([value], count)
    return family


class _Labels:
    """Names as labels: after so many, the rest is one."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= LABELS:
                return OTHER
            self._known.add(name)
        return name


class _Histogram:
    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def cumulated(self) -> list[tuple[str, float]]:
        total, bounds = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._counts, strict=True):
            total += count
            bounds.append((bound, float(total)))
        return bounds
