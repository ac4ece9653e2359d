"""`flux check`: whether the executions under way can go on with the code in some files."""

import io
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout, suppress
from typing import Annotated, Any

import typer

from flux.app import App
from flux.cli import loading, output
from flux.cli.output import CommandError, Exit, command
from flux.cli.places import opened
from flux.domain.execution import ExecutionState
from flux.ports import ExecutionRow, Store
from flux.workflow import Workflow

EVERY = 1_000_000
_COMPATIBLE, _DIVERGENT, _NOT_CHECKED = "compatible", "divergent", "not checked"


def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files, or dotted modules, with the new code.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> int:
    """Replay every unfinished execution on the code in the files, before it is deployed.

    No task runs, nothing is written, and processes that run executions meanwhile are not disturbed. Exits with 1 if an
    execution diverges.

    \b
    Examples:
      flux check orders.py
      flux --database copy-of-production.db check src/flows/*.py --json
    """
    workflows = _workflows(files)
    app = _opened_to_read()
    counts: Counter[str] = Counter()
    for row, answer, reason in _answers(app, workflows) if app is not None else ():
        counts[answer] += 1
        if as_json:
            output.data_json(_as_data(row, answer, reason), indent=None)
        else:
            line = f"{answer:<11}  {row.execution_id}  {output.one_line(row.workflow)}"
            output.data(f"{line}: {output.one_line(reason)}" if reason else line)
    _sum_up(counts)
    return Exit.FAILED if counts[_DIVERGENT] else Exit.OK


def _workflows(files: Sequence[str]) -> dict[str, Workflow[Any, Any]]:
    """The workflows of all files by name; what a file only imports gives way to where it is defined.

    Raises:
        CommandError: A file has none, or two define the same name.
    """
    imported: dict[str, Workflow[Any, Any]] = {}
    defined: dict[str, tuple[str, Workflow[Any, Any]]] = {}
    for file in dict.fromkeys(files):
        loaded = loading.load(file)
        if not loaded.workflows:
            loaded.pick(None)  # Says why.
        for workflow in {id(each): each for each in loaded.workflows.values()}.values():
            if workflow.func.__module__ != loaded.module:
                imported[workflow.name] = workflow
            elif workflow.name in defined:
                raise CommandError(
                    f"there are two workflows {workflow.name!r}, in {defined[workflow.name][0]} and in {file}: "
                    "name the file that will run the executions",
                    Exit.USAGE,
                )
            else:
                defined[workflow.name] = file, workflow
    return {**imported, **{name: workflow for name, (_, workflow) in defined.items()}}


def _opened_to_read() -> App | None:
    """The app, unless there is no database yet.

    Raises:
        CommandError: The database is of an older schema: to open it would change it.
    """
    from flux.cli.reading import connect
    from flux.settings import load
    from flux.store.migrate import migration_scripts

    path = load().database
    if path.is_file():
        version = known = len(migration_scripts())
        with suppress(sqlite3.Error), connect(path) as connection:  # To open it says it better.
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version < known:
            raise CommandError(
                f"{path} has schema {version} of {known}, and to check it would bring it up to date, which an older "
                f"Flux then could not read: make a copy of it, let  {command('executions', 'list')}  bring that up to "
                "date, and check the copy",
                Exit.USAGE,
            )
    return opened()


def _unfinished(store: Store) -> Iterable[ExecutionRow]:
    """The executions under way; asked for twice, lest one that is being run slips from one state to another unseen."""
    states = [state for state in ExecutionState if not state.is_finished] * 2
    rows = (row for state in states for row in store.list(state=state, limit=EVERY))
    return {row.execution_id: row for row in rows}.values()


def _answers(app: App, workflows: dict[str, Workflow[Any, Any]]) -> Iterable[tuple[ExecutionRow, str, str]]:
    for row in _unfinished(app.store):
        yield row, *_answer(app, row, workflows.get(row.workflow))


def _answer(app: App, row: ExecutionRow, workflow: Workflow[Any, Any] | None) -> tuple[str, str]:
    """What a replay shows, and why."""
    from flux.engine.divergence import WAYS_OUT
    from flux.engine.replay import divergence_of

    if workflow is None:
        return _NOT_CHECKED, "the files have no such workflow"
    with redirect_stdout(io.StringIO()):  # What a body prints, it has printed.
        error = divergence_of(
            workflow.definition, app.store.events(row.execution_id), guard_bodies=app.settings.guard_bodies
        )
    return (_COMPATIBLE, "") if error is None else (_DIVERGENT, str(error).removesuffix(f". {WAYS_OUT}"))


def _sum_up(counts: Counter[str]) -> None:
    total = ", ".join(f"{counts[answer]:,} {answer}" for answer in (_COMPATIBLE, _DIVERGENT))
    output.message(total, style="bad" if counts[_DIVERGENT] else "good")
    if counts[_NOT_CHECKED]:
        output.message(f"{counts[_NOT_CHECKED]:,} not checked: name the files of their workflows, too")
    if counts[_DIVERGENT]:
        output.message(
            "these would be blocked until the code fits again: keep the old code for them, or let flux.patched('id') "
            f"choose between the old and the new; see one with  {command('executions', 'show', 'ID')}"
        )


def _as_data(row: ExecutionRow, answer: str, reason: str) -> dict[str, Any]:
    return {
        "execution_id": row.execution_id,
        "workflow": row.workflow,
        "state": row.state.value,
        "result": answer,
        "reason": reason or None,
    }
