"""Prints the reference of the command line: `python tests/docs/cli_reference.py > docs/cli_reference.md` writes it."""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

import typer.main

from flux.cli.main import application, execute

WIDTH = 96
INTRODUCTION = """\
# Reference of the command line

What `--help` says of each command, made from the commands themselves. What they are for, with examples and exit codes,
is in [The `flux` command](cli.md).
"""


def paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """A command and those below it, as they are shown in its help."""
    yield path
    for name, each in getattr(command, "commands", {}).items():
        if not each.hidden:
            yield from paths(each, (*path, name))


def help_of(path: tuple[str, ...]) -> str:
    """What `--help` prints, on a terminal of this width."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert execute([*path, "--help"]) == 0
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def document() -> str:
    """The document, as text."""
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), str(WIDTH)
    try:
        sections = [
            f"\n## `{' '.join(('flux', *path))}`\n\n```text\n{help_of(path)}\n```\n"
            for path in paths(typer.main.get_command(application))
        ]
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return INTRODUCTION + "".join(sections)


if __name__ == "__main__":
    print(document(), end="")
