"""Executions drawn for people; this module is for tables and the page of one execution."""

import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from flux.cli import details, timeline
from flux.cli.output import PipeClosed, is_terminal, safe
from flux.cli.remote import Remote
from flux.domain.events import ExecutionEvent
from flux.domain.execution import ExecutionState
from flux.ports import ExecutionRow, Store

STATE_STYLES = {
    "COMPLETED": "green",
    "FAILED": "red",
    "CANCELLED": "magenta",
    "PAUSED": "yellow",
    "BLOCKED": "red",
    "RUNNING": "cyan",
    "SCHEDULED": "cyan",
}


def print_execution(
    store: Store | Remote, row: ExecutionRow, events: Sequence[ExecutionEvent], *, now_us: int, show_all: bool
) -> None:
    """Print the page of an execution to stdout."""
    lines = [_labelled(label, text) for label, text in details.header(store, row, events, now_us=now_us)]
    rows = timeline.calls(events, state=row.state)
    if rows:
        drawn = timeline.render(
            rows,
            start_us=row.started_at or row.created_at,
            end_us=row.finished_at or (now_us if row.state is ExecutionState.RUNNING else events[-1].time_us),
            width=shutil.get_terminal_size().columns,
            bars=is_terminal(sys.stdout),
            show_all=show_all,
        )
        lines += [Text(), *drawn]
    traceback = safe(details.traceback_of(store, row, events))
    if traceback:
        lines += [Text(), Text(traceback)]
    print_lines(lines, sys.stdout)


def print_table(head: Sequence[str], table: Sequence[Sequence[str]], *, stream: TextIO) -> None:
    """Print rows under a head, each column as wide as what is in it."""
    widths = [max(Text(cell).cell_len for cell in column) for column in zip(head, *table, strict=True)]
    lines = [_row(head, widths, style="dim"), *(_row(row, widths) for row in table)]
    print_lines(lines, stream)


def print_lines(lines: Sequence[Text], stream: TextIO) -> None:
    """Print lines as they are: the terminal wraps what is too long, so that it can be copied whole.

    Raises:
        PipeClosed: Nobody reads them.
    """
    console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
    try:
        for line in lines:
            console.print(line, soft_wrap=True)
        stream.flush()
    except (BrokenPipeError, SystemExit):  # Rich ends the process by SystemExit.
        raise PipeClosed from None


def _labelled(label: str, text: str) -> Text:
    return Text.assemble((f"{label:<10} ", "dim"), (text, STATE_STYLES.get(text, "")))


def _row(cells: Sequence[str], widths: Sequence[int], style: str = "") -> Text:
    drawn = Text(style=style)
    for cell, width in zip(cells, widths, strict=True):
        text = Text(cell, style=STATE_STYLES.get(cell, ""))
        text.pad_right(width - text.cell_len + 2)
        drawn.append_text(text)
    drawn.rstrip()
    return drawn
