"""`flux workflows`: what workers serve."""

import json
import sys
from typing import Annotated, Any

import typer

from flux.catalogue import PublishedWorkflow
from flux.cli import output
from flux.cli.loading import did_you_mean
from flux.cli.output import CommandError, Exit, command, message, one_line
from flux.cli.places import place
from flux.cli.run import JsonOption

workflows = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List and show the workflows that workers serve.\n\n\b\nExample:\n  flux workflows list",
)


@workflows.command("list")
def list_(as_json: JsonOption = False) -> int:
    """List the workflows that workers here have made known, by name.

    \b
    Example:
      flux workflows list --json
    """
    known = _known()
    if as_json:
        for each in known:
            output.data_json(_as_data(each), indent=None)
    elif known:
        from flux.cli.report import print_table

        table = [(one_line(each.name), each.version, one_line(each.description, 60)) for each in known]
        print_table(("workflow", "version", "what it does"), table, stream=sys.stdout)
    else:
        message(f"no worker has served a workflow here yet: start one with  {command('worker', 'FILE')}")
    return Exit.OK


@workflows.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the workflow.")], as_json: JsonOption = False
) -> int:
    """Show a workflow: what it does, the JSON Schema of its input and output, and its labels.

    \b
    Example:
      flux workflows show checkout
    """
    known = {each.name: each for each in _known()}
    if name not in known:
        raise CommandError(
            f"there is no workflow {name!r}{did_you_mean(name, list(known)) or ': a worker makes its own known'}",
            Exit.NOT_FOUND,
        )
    shown = _as_data(known[name])
    if as_json:
        output.data_json(shown)
        return Exit.OK
    shown["labels"] = output.label_text(shown["labels"]) or "none"
    for label, value in shown.items():
        text = value if isinstance(value, str) else "anything" if value is None else json.dumps(value)
        output.data(f"{label.replace('_schema', ''):<12} {output.safe(text)}".rstrip())
    return Exit.OK


def _known() -> list[PublishedWorkflow]:
    here = place()
    return [] if here is None else list(here.workflows())


def _as_data(workflow: PublishedWorkflow) -> dict[str, Any]:
    return {
        "name": workflow.name,
        "version": workflow.version,
        "description": workflow.description,
        "input_schema": json.loads(workflow.input_schema) if workflow.input_schema else None,
        "output_schema": json.loads(workflow.output_schema) if workflow.output_schema else None,
        "labels": dict(workflow.labels),
    }
