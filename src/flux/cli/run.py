"""`flux run`: run a workflow here, nothing else needed."""

from typing import Annotated, Any

import typer

from flux import app as composition
from flux.cli import inputs, loading, output
from flux.cli.lint import warn_of
from flux.domain.attributes import check_attributes
from flux.domain.execution_context import ExecutionContext
from flux.engine.launcher import MISSING
from flux.ids import check_id, new_id
from flux.workflow import input_annotation

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def run(
    target: Annotated[
        str, typer.Argument(metavar="FILE[:WORKFLOW]", help="A file or a dotted module, and which workflow in it.")
    ],
    input_: Annotated[
        str | None,
        typer.Argument(metavar="INPUT", help="null, true, false, a number, JSON, or else text.", show_default=False),
    ] = None,
    execution_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Start or continue the execution of this id.")
    ] = None,
    attribute: Annotated[
        list[str] | None, typer.Option("--attribute", metavar="NAME=VALUE", help="To find it by; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Run a workflow in this process until it is finished or paused.

    With --id the same command starts the execution, continues it after a crash, and shows its result when it is
    finished. It never answers a pause: it prints the command that does, and exits with 4.

    The output goes to stdout, everything else (also what your code prints) to stderr.

    \b
    Examples:
      flux run hello.py World
      flux run orders.py:checkout '{"order": 7}' --id order-7
      flux run package.module --json
      flux run orders.py 7 --attribute customer=ada
    """
    from flux.cli.driving import drive

    named = loading.Target.parse(target)
    workflow = loading.load(named.source).pick(named.workflow)
    value: Any = MISSING
    if input_ is not None:
        value = inputs.fit(input_, input_annotation(workflow.definition))
        if note := inputs.note_on(input_, value):
            output.message(note)
    found_by = check_attributes(inputs.attributes(attribute or []))
    known_id = check_id(execution_id) if execution_id is not None else None
    app = composition.current()
    row = app.get(known_id) if known_id is not None else None
    new = known_id or new_id()
    if row is None and not app.store.list(workflow=workflow.name, limit=1):
        warn_of(named.source)
    if row is None and value is MISSING:
        value = None  # An unknown id without an input is started, with None.
    again = output.command(
        *("run", str(named), *([input_] if input_ is not None else []), "--id", new),
        *(word for each in attribute or [] for word in ("--attribute", each)),
    )

    def work() -> ExecutionContext[Any]:
        if value is MISSING:
            return app.run_on(workflow.definition, new)
        return app.run(workflow.definition, value, new, found_by)

    return drive(app, new, workflow.name, work, again=again, as_json=as_json, row=row)
