"""What the shell proposes for an argument; this module is for answering fast, never failing, and making no file."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import typer

from flux.errors import FluxError
from flux.settings import load


def _proposing(query: str) -> Callable[[typer.Context, str], list[str]]:
    """A function for `autocompletion`: gives what a query of the database finds for the beginning of a word."""

    def propose(ctx: typer.Context, incomplete: str) -> list[str]:
        from flux.cli.reading import connect

        try:
            named = ctx.find_root().params.get("database")
            path = Path(named) if named else load().database
            begins = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in incomplete)
            with connect(path, seconds=0.1) as connection:
                return [name for (name,) in connection.execute(query, (f"{begins}*",))]
        except (FluxError, OSError, sqlite3.Error):
            return []

    return propose


executions = _proposing("SELECT execution_id FROM executions WHERE execution_id GLOB ? ORDER BY number DESC LIMIT 100")
open_executions = _proposing(
    "SELECT execution_id FROM executions WHERE execution_id GLOB ? AND finished_at IS NULL "
    "ORDER BY number DESC LIMIT 100"
)
secrets = _proposing("SELECT name FROM secrets WHERE name GLOB ? ORDER BY name")
