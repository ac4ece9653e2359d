"""`flux lint`: what in the bodies of workflows would not be the same in every replay."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from flux.cli import output
from flux.cli.output import Exit
from flux.errors import FluxError
from flux.lint import Finding, lint


def lint_files(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Python files; they are read, not run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> int:
    """Find in workflow bodies what differs between replays: clock, chance, files, the network, the order of sets.

    Exits with 1 if it finds something.

    \b
    Examples:
      flux lint orders.py
      flux lint src/flows/*.py --json
    """
    findings = [finding for file in files for finding in lint(file)]
    for finding in findings:
        if as_json:
            output.data_json(_as_data(finding), indent=None)
        else:
            output.data(str(finding))
    if not findings and not as_json:
        output.message(f"nothing found in {len(files)} {'file' if len(files) == 1 else 'files'}", style="good")
    return Exit.FAILED if findings else Exit.OK


def warn_of(source: str) -> None:
    """Say on stderr what is found in a file that is run for the first time."""
    file = Path(source)
    if not file.is_file():
        return
    with suppress(FluxError):  # Loading it says it better.
        for finding in lint(file):
            output.message(str(finding), style="waiting")


def _as_data(finding: Finding) -> dict[str, str | int]:
    return {
        "file": finding.file,
        "line": finding.line,
        "workflow": finding.workflow,
        "what": finding.what,
        "fix": finding.fix,
    }
