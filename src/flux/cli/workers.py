"""`flux workers`: the processes that run executions."""

import sys
from typing import Any

import typer

from flux.cli import output
from flux.cli.details import iso
from flux.cli.output import Exit, command, duration, message, one_line
from flux.cli.places import place
from flux.cli.run import JsonOption

workers = typer.Typer(
    rich_markup_mode=None,
    help="Show the processes that run executions.\n\n\b\nExample:\n  flux workers list",
    no_args_is_help=True,
)


@workers.callback()
def _workers() -> None:
    pass  # Without it the only command of the group would be the group itself.


@workers.command("list")
def list_(as_json: JsonOption = False) -> int:
    """List the processes that run executions, the oldest first.

    \b
    Example:
      flux workers list
    """
    here = place()
    rows = [] if here is None else here.catalogue.workers()
    if as_json:
        for row in rows:
            times = {"started_at": row.started_at, "lease_expires_at": row.lease_expires_at}
            shown: dict[str, Any] = {"worker": row.worker, "process": row.process, "workflows": list(row.workflows)}
            shown |= {name: None if at is None else iso(at) for name, at in times.items()}
            output.data_json({**shown, "running": row.running, "labels": dict(row.labels)}, indent=None)
    elif rows and here is not None:
        from flux.cli.report import print_table

        table = [
            (
                row.process or "-",
                one_line(", ".join(row.workflows), 60) or "what it starts itself",
                output.label_text(row.labels, 60) or "-",
                str(row.running),
                "" if row.started_at is None else f"{duration(here.clock.now() - row.started_at)} ago",
                row.worker,
            )
            for row in rows
        ]
        print_table(("process", "workflows", "labels", "running", "started", "worker"), table, stream=sys.stdout)
    else:
        message(f"no worker runs: start one with  {command('worker', 'FILE')}")
    return Exit.OK
