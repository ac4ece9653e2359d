"""The timeline of an execution; this module is for telling what each call did, when, and how it ended.

`calls` makes a tree of what the history says, and `render` draws it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from rich.text import Text

from flux import serde
from flux.cli.output import duration, error_text, one_line
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.serde.codec import decode_for_display

GROUP_FROM = 21  # So many siblings of one name in a row become one line.
SHOWN_IN_GROUP = 3  # Failed ones of a group, which get a line of their own all the same.
SHOWN_ATTEMPTS = 3
ERROR_WIDTH = 200

_STYLES = {
    "failed": "red",
    "rolled back": "red",
    "running": "cyan",
    "retrying": "yellow",
    "paused": "yellow",
    "waiting": "yellow",
    "interrupted": "yellow",
    "fallback": "yellow",
    "cancelled": "magenta",
}


@dataclass(slots=True)
class CallRow:
    """One call, as the timeline shows it.

    Attributes:
        state: done, failed, running, retrying, paused, waiting, cancelled, fallback, rolled back, interrupted, fired.
        errors: Of failed attempts: their number and text.
        error: Why it failed, or fell back, or what a cancelled one has left behind.
    """

    call_id: str
    name: str
    started_us: int
    parent: str | None = None
    ended_us: int | None = None
    state: str = "running"
    attempts: int = 1
    errors: list[tuple[int, str]] = field(default_factory=list)
    error: str = ""
    children: list["CallRow"] = field(default_factory=list)


def calls(events: Sequence[ExecutionEvent], *, state: ExecutionState) -> list[CallRow]:
    """The outermost calls in order of their start, each with those that were made within it.

    Args:
        state: Of the execution: if nobody works on it now, open calls are not running.
    """
    rows: dict[str, CallRow] = {}
    for event in events:
        if not event.call_id:
            continue
        row = rows.get(event.call_id)
        if row is None:
            row = rows[event.call_id] = _new(event)
        _tell(row, event)
    outermost: list[CallRow] = []
    for row in rows.values():
        if row.state in {"running", "retrying"} and state is not ExecutionState.RUNNING:
            row.state = "waiting" if state is ExecutionState.PAUSED else "interrupted"
        parent = rows.get(row.parent) if row.parent else None
        (outermost if parent is None else parent.children).append(row)
    return outermost


def _new(event: ExecutionEvent) -> CallRow:
    parent = _decoded(event.detail_data).get("parent") if event.type is Type.TASK_STARTED else None
    return CallRow(event.call_id, one_line(event.name), event.time_us, parent)


def _tell(row: CallRow, event: ExecutionEvent) -> None:
    match event.type:
        case Type.TASK_RETRY_FAILED:
            number = int(_decoded(event.data).get("current_attempt", 0)) + 1
            row.errors.append((number, _error_in(event)))
            row.state = "retrying"
        case Type.TASK_RETRY_STARTED:
            row.attempts += 1
            row.state = "running"
        case Type.TASK_FALLBACK_STARTED | Type.TASK_ROLLBACK_STARTED:
            row.error, row.state = _error_in(event), "running"
        case Type.TASK_FALLBACK_COMPLETED:
            row.state = "fallback"
        case Type.TASK_ROLLBACK_COMPLETED:
            row.state = "rolled back"
        case Type.TASK_PAUSED:
            row.name, row.state = f'{row.name} "{one_line(str(_decoded_any(event.data)))}"', "paused"
        case Type.TASK_RESUMED:
            row.state = "running"
        case Type.TASK_COMPLETED:
            row.ended_us = event.time_us
            row.state = row.state if row.state == "fallback" else "done"
        case Type.TASK_FAILED:
            row.ended_us, row.error = event.time_us, error_text(_decoded_any(event.data), ERROR_WIDTH)
            row.state = row.state if row.state == "rolled back" else "failed"
        case Type.TASK_CANCELLED:
            row.ended_us, row.state = event.time_us, "cancelled"
            row.error = one_line(str(_decoded_any(event.data) or ""))
        case Type.TIMER_FIRED:
            row.name, row.ended_us, row.state = "timer", event.time_us, "fired"


def _error_in(event: ExecutionEvent) -> str:
    return error_text(serde.to_display(_decoded(event.detail_data).get("error")), ERROR_WIDTH)


def _decoded(data: bytes | None) -> dict[str, Any]:
    value = decode_for_display(data) if data else {}
    return value if isinstance(value, dict) else {}


def _decoded_any(data: bytes | None) -> Any:
    return serde.display(data) if data else None


@dataclass(frozen=True, slots=True)
class _Line:
    """A row at its depth; `group` are the calls that it stands for, if it stands for several."""

    row: CallRow
    depth: int
    group: tuple[CallRow, ...] = ()

    @property
    def label(self) -> str:
        return "  " * self.depth + self.row.name


def render(
    rows: Sequence[CallRow], *, start_us: int, end_us: int, width: int, bars: bool, show_all: bool = False
) -> list[Text]:
    """Draw the timeline, one text a line, at most `width` cells wide where `bars` are drawn.

    Args:
        end_us: The end of the execution, or now.
        bars: Whether for a terminal: with bars, cut to the width.
        show_all: Never group.
    """
    lines = list(_lines(rows, depth=0, show_all=show_all))
    if not lines:
        return []
    table = _Table(lines, start_us=start_us, end_us=end_us, width=width, bars=bars)
    drawn = [table.header()]
    for line in lines:
        drawn += table.group(line) if line.group else table.call(line)
    if bars:
        for text in drawn:
            text.truncate(width, overflow="ellipsis")
    return drawn


def _lines(rows: Sequence[CallRow], *, depth: int, show_all: bool) -> Iterator[_Line]:
    for _, same in groupby(rows, key=lambda row: (row.name, bool(row.children))):
        group = tuple(same)
        if len(group) >= GROUP_FROM and not group[0].children and not show_all:
            yield _Line(group[0], depth, group)
            bad = [row for row in group if row.state in {"failed", "rolled back"}]
            for row in bad[:SHOWN_IN_GROUP]:
                yield _Line(row, depth + 1)
            continue
        for row in group:
            yield _Line(row, depth)
            yield from _lines(row.children, depth=depth + 1, show_all=show_all)


class _Table:
    """The columns of a timeline, as wide as what is in them."""

    def __init__(self, lines: Sequence[_Line], *, start_us: int, end_us: int, width: int, bars: bool) -> None:
        self._start, self._end = start_us, max(end_us, start_us + 1)
        rows = [line.row for line in lines if not line.group]
        self._id = max([2, *(len(row.call_id) for row in rows)])
        self._at = max([5, *(len(self._offset(row)) for row in rows)])
        self._took = max([4, *(len(self._duration(row)) for row in rows)])
        self._state = max([5, *(len(_state(row)) for row in rows)])
        rest = width - self._id - self._at - self._took - self._state - 8  # Four gaps of two.
        longest = max([4, *(Text(line.label).cell_len for line in lines if not line.group)])
        self._name = min(longest, max(12, rest - 10)) if bars else longest
        self._bar = max(0, min(40, rest - self._name - 2)) if bars else 0
        if self._bar < 6:
            self._bar = 0

    def header(self) -> Text:
        return Text(
            self._columns(f"{'call':<{self._name}}", "id", "start", "took", "state", " " * self._bar).rstrip(),
            style="dim",
        )

    def call(self, line: _Line) -> list[Text]:
        row = line.row
        name = Text(line.label)
        name.truncate(self._name, overflow="ellipsis", pad=True)
        left = self._columns(name.plain, row.call_id, self._offset(row), self._duration(row), "", "")
        style = _STYLES.get(row.state, "")
        drawn = [Text.assemble(left, *self._bar_of(row, style), (_state(row), style))]
        indent = "  " * line.depth + "    "
        if row.attempts > 1 or row.state == "retrying":
            drawn += [Text(f"{indent}attempt {n}: {error}", style="dim") for n, error in row.errors[:SHOWN_ATTEMPTS]]
            if more := len(row.errors[SHOWN_ATTEMPTS:]):
                drawn.append(Text(f"{indent}… and {more} more failed attempts", style="dim"))
        if row.error and row.error not in [error for _, error in row.errors[:SHOWN_ATTEMPTS]]:
            drawn.append(Text(f"{indent}{row.error}", style=style))
        return drawn

    def group(self, line: _Line) -> list[Text]:
        counts = Counter(row.state for row in line.group)
        drawn = Text(f"{line.label} × {len(line.group):,}")
        for state, count in counts.most_common():
            drawn.append(f"  {state} {count:,}", style=_STYLES.get(state, ""))
        took = [row.ended_us - row.started_us for row in line.group if row.ended_us is not None]
        if took:
            drawn.append(f"  {duration(min(took))} … {duration(max(took))}", style="dim")
        return [drawn]

    def _columns(self, name: str, call_id: str, start: str, took: str, state: str, bar: str) -> str:
        gap = f"{bar}  " if bar else ""
        numbers = f"{call_id:>{self._id}}  {start:>{self._at}}  {took:>{self._took}}"
        return f"{name}  {numbers}  {gap}{state}"

    def _bar_of(self, row: CallRow, style: str) -> list[tuple[str, str]]:
        """Where in the execution's time the call was."""
        if not self._bar:
            return []
        scale = self._bar / (self._end - self._start)
        first = min(self._bar - 1, int((row.started_us - self._start) * scale))
        end = row.ended_us if row.ended_us is not None else self._end
        length = max(1, min(self._bar - first, round((end - row.started_us) * scale)))
        block = "█" if row.ended_us is not None else "░"
        return [(" " * first, ""), (block * length, style or "green"), (" " * (self._bar - first - length + 2), "")]

    def _offset(self, row: CallRow) -> str:
        return f"+{duration(row.started_us - self._start)}"

    def _duration(self, row: CallRow) -> str:
        if row.state == "fired":
            return ""
        if row.ended_us is None and row.state == "interrupted":
            return ""
        return duration((row.ended_us if row.ended_us is not None else self._end) - row.started_us)


def _state(row: CallRow) -> str:
    return f"{row.state}, {row.attempts} attempts" if row.attempts > 1 else row.state
