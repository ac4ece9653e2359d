"""`flux executions logs`: what the tasks of an execution printed and logged."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

import typer

from flux.catalogue import Line
from flux.cli import output
from flux.cli.executions import IdArgument, find
from flux.cli.output import Exit, message
from flux.cli.places import Place
from flux.observability import lines
from flux.ports import ExecutionRow

PAGE = 1000
POLL_SECONDS = 0.2


def logs(
    execution_id: IdArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the execution is finished.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> int:
    """Show what the tasks of an execution printed and logged, while they ran in a worker.

    \b
    Examples:
      flux executions logs order-7
      flux executions logs order-7 --follow --json
    """
    here, row = find(execution_id)
    is_empty = True
    for line in _lines(here, row, follow=follow):
        is_empty = False
        _print(line, as_json=as_json)
    if is_empty and not as_json:
        message("nothing that its tasks printed was kept: that is done in  flux worker  and  flux dev")
    return Exit.OK


def _lines(here: Place, row: ExecutionRow, *, follow: bool) -> Iterator[Line]:
    """The lines that there are; with `follow`, also those that come until the execution is finished."""
    after, now = 0, row
    while True:
        if follow:
            now = here.store.get(row.execution_id) or row
        is_last = not follow or lines.are_complete(now, here.clock.now())  # Asked before the look.
        found = here.catalogue.lines(row.execution_id, after=after, limit=PAGE)
        yield from found
        after = found[-1].id if found else after
        if len(found) == PAGE:
            continue
        if is_last:
            return
        time.sleep(POLL_SECONDS)


def _print(line: Line, *, as_json: bool) -> None:
    moment = datetime.fromtimestamp(line.time_us / 1_000_000, UTC)
    if as_json:
        shown = {"id": line.id, "call_id": line.call_id, "task": line.task, "stream": line.stream, "text": line.text}
        output.data_json({**shown, "time": moment.isoformat()}, indent=None)
        return
    at = moment.astimezone().strftime("%H:%M:%S.%f")[:-3]
    stream = "" if line.stream == "stdout" else f" {line.stream}"
    output.data(f"{at} {output.one_line(line.task, 40)} #{line.call_id}{stream}: {output.safe(line.text)}")
