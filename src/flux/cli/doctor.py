"""`flux doctor`: what a process would meet here, and what to do about it."""

import sys
from typing import Annotated

import typer

from flux.cli import output
from flux.cli.output import Exit

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print all checks as JSON.")] = False) -> int:
    """Check what Flux needs here: the database, its locks and its disk, the keys of secrets, the settings.

    It changes nothing, and works on what is broken. The exit code is 1 if there is a problem.

    \b
    Example:
      flux doctor
    """
    from dataclasses import asdict

    from flux.cli.checks import checks

    found = list(checks())
    worst = max((check.status for check in found), key=list(_STYLES).index)
    if as_json:
        output.data_json({"status": worst, "checks": [asdict(check) for check in found]})
        return Exit.FAILED if worst == "problem" else Exit.OK
    from rich.text import Text

    from flux.cli.report import print_lines

    lines = []
    for check in found:
        text = output.one_line(f"{check.text}: {check.advice}" if check.advice else check.text)
        lines.append(Text.assemble((f"{check.status:<9}", _STYLES[check.status]), (f"{check.name:<12}", "dim"), text))
    print_lines(lines, sys.stdout)
    return Exit.FAILED if worst == "problem" else Exit.OK
