"""What happens while an execution runs here; this module is for showing it, and only once it is durable."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any, Protocol

from flux import serde, telemetry
from flux.cli.output import duration, error_text, is_terminal, message, one_line
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.serde.codec import decode_for_display

LINES_EACH = 50  # Calls that get a line of their own; beyond them there is a summary every …
SUMMARY_EVERY = 100
RUNNING_SHOWN = 8  # Those that run longest: the newest of many would only flicker.
NAMES_SHOWN = 10

_STATE_AFTER = {
    Type.TASK_STARTED: "running",
    Type.TASK_RETRY_FAILED: "retrying",
    Type.TASK_RETRY_STARTED: "running",
    Type.TASK_PAUSED: "paused",
    Type.TASK_RESUMED: "running",
    Type.TASK_COMPLETED: "done",
    Type.TASK_FAILED: "failed",
    Type.TASK_CANCELLED: "cancelled",
}
_ENDED = frozenset({"done", "failed", "cancelled"})


@dataclass(slots=True)
class OpenCall:
    """A call that has not ended."""

    name: str
    state: str
    started_us: int


@dataclass(slots=True)
class Tally:
    """How many calls of each name are in which state, and which are open."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    open: dict[str, OpenCall] = field(default_factory=dict)
    parents: set[str] = field(default_factory=set)  # Calls that others were made in: those tell more.
    ended: Counter[str] = field(default_factory=Counter)

    def take(self, event: ExecutionEvent) -> OpenCall | None:
        """Count one event; returns the call that it is about, in its new state."""
        state = _STATE_AFTER.get(event.type)
        if state is None:
            return None
        counts = self.counts.setdefault(event.name, Counter())
        call = self.open.get(event.call_id)
        if call is None:
            call = self.open[event.call_id] = OpenCall(one_line(event.name, 40), state, event.time_us)
            if parent := _decoded(event.detail_data).get("parent"):
                self.parents.add(parent)
        else:
            counts[call.state] -= 1
        call.state = state
        counts[state] += 1
        if state in _ENDED:
            self.ended[state] += 1
            del self.open[event.call_id]
        return call


class View(Protocol):
    """Shows events as they become durable."""

    def catch_up(self, events: Sequence[ExecutionEvent]) -> None:
        """Take in what happened before."""
        ...

    def show(self, events: Sequence[ExecutionEvent]) -> None:
        """Show what has just become durable."""
        ...


class LinesView:
    """One line for each notable fact, for logs and pipes."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._tally = Tally()
        self._lines = 0

    def catch_up(self, events: Sequence[ExecutionEvent]) -> None:
        for event in events:
            self._tally.take(event)
        if events:
            message(f"continuing {self._title} after {len(events):,} events")

    def show(self, events: Sequence[ExecutionEvent]) -> None:
        for event in events:
            if event.type is Type.WORKFLOW_STARTED:
                message(f"started {self._title}")
            call = self._tally.take(event)
            if call is not None and (call.state in _ENDED or call.state in {"retrying", "paused"}):
                self._tell(event, call)

    def _tell(self, event: ExecutionEvent, call: OpenCall) -> None:
        self._lines += 1
        if self._lines <= LINES_EACH:
            message(f"{call.name} #{event.call_id} {_fact(event, call)}")
        elif call.state in _ENDED and self._tally.ended.total() % SUMMARY_EVERY == 0:
            counts = ", ".join(f"{count:,} {state}" for state, count in self._tally.ended.items())
            message(f"{self._tally.ended.total():,} calls have ended: {counts}")


def _fact(event: ExecutionEvent, call: OpenCall) -> str:
    match event.type:
        case Type.TASK_COMPLETED:
            return f"completed in {duration(event.time_us - call.started_us)}"
        case Type.TASK_FAILED:
            error = serde.display(event.data) if event.data else ""
            return f"failed after {duration(event.time_us - call.started_us)}: {error_text(error, 200)}"
        case Type.TASK_RETRY_FAILED:
            value, detail = _decoded(event.data), _decoded(event.detail_data)
            attempt, last = value.get("current_attempt", 0) + 1, value.get("max_attempts", 0) + 1
            return f"attempt {attempt} of {last} failed: {error_text(serde.to_display(detail.get('error')), 200)}"
        case _:
            return call.state


def _decoded(data: bytes | None) -> dict[str, Any]:
    value = decode_for_display(data) if data else {}
    return value if isinstance(value, dict) else {}


class LiveView:
    """What rich's Live draws, again and again: counts for each task, and the calls that run."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._tally = Tally()
        self._lock = threading.Lock()  # It is drawn by a thread of rich's.
        self._began = time.monotonic()

    def catch_up(self, events: Sequence[ExecutionEvent]) -> None:
        self.show(events)

    def show(self, events: Sequence[ExecutionEvent]) -> None:
        with self._lock:
            for event in events:
                self._tally.take(event)

    def __rich__(self) -> Any:
        from rich.text import Text

        with self._lock:
            counts = [(name, +counter) for name, counter in self._tally.counts.items()]
            longest = [(i, c) for i, c in self._tally.open.items() if i not in self._tally.parents][:RUNNING_SHOWN]
            running = [(i, c.name, c.state, c.started_us) for i, c in longest]
        text = Text(no_wrap=True, overflow="ellipsis")
        elapsed = duration((time.monotonic() - self._began) * 1_000_000)
        text.append(f"{_SPINNER[int(time.monotonic() * 10) % len(_SPINNER)]} ", style="cyan")
        text.append(self._title, style="bold").append(f"  {elapsed}", style="dim")
        if len(counts) > NAMES_SHOWN:
            text.append(f"\n  … and {len(counts) - NAMES_SHOWN} other tasks", style="dim")
        width = max((len(name) for name, _ in counts), default=0)
        for name, counter in counts[-NAMES_SHOWN:]:
            text.append(f"\n  {one_line(name, 30):<{min(width, 30)}}")
            for state in _ORDER:
                if counter[state]:
                    text.append(f"  {state} {counter[state]:,}", style=_STYLES[state])
        now = time.time() * 1_000_000
        for call_id, name, state, started_us in running:
            text.append(f"\n  › {name} #{call_id} ", style="dim")
            text.append(f"{state} {duration(now - started_us)}", style=_STYLES[state])
        return text


_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_STYLES = {
    "running": "cyan",
    "done": "green",
    "retrying": "yellow",
    "failed": "red",
    "paused": "yellow",
    "cancelled": "magenta",
}
_ORDER = tuple(_STYLES)


@contextmanager
def watching(execution_id: str, title: str, past: Sequence[ExecutionEvent]) -> Iterator[None]:
    """Show on stderr how an execution goes on; what the user's code prints goes to stderr meanwhile.

    Args:
        title: Workflow and id.
        past: What happened to it before.
    """
    with _shown(title) as view:
        view.catch_up(past)

        def hear(name: str, fields: dict[str, Any]) -> None:
            if name == "events.appended" and fields["execution_id"] == execution_id:
                view.show(fields["events"])

        detach = telemetry.attach(hear)
        try:
            yield
        finally:
            detach()


@contextmanager
def _shown(title: str) -> Iterator[View]:
    if not is_terminal(sys.stderr):
        with redirect_stdout(sys.stderr):
            yield LinesView(title)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
    view = LiveView(title)
    with Live(view, console=console, refresh_per_second=10, transient=True, redirect_stdout=True, redirect_stderr=True):
        yield view
