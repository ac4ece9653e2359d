"""`flux tokens`: who may use a server that others can reach."""

import re
import sys
from enum import StrEnum
from typing import Annotated

import typer

from flux import app as composition
from flux.cli import output
from flux.cli.output import CommandError, Exit, command, message
from flux.cli.places import opened
from flux.cli.run import JsonOption

tokens = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make tokens for the HTTP API.\n\n\b\nExample:\n  flux tokens create deploy --role operator --expires 30d",
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="By which it is listed and revoked.")]
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Role(StrEnum):
    """What the holder of a token may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@tokens.command()
def create(
    name: NameArgument,
    role: Annotated[
        Role, typer.Option("--role", help="A viewer reads, an operator acts on executions, an admin does all.")
    ] = Role.VIEWER,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="As 30d, 12h, 90m or 45s [default: never].")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Make a token, and print it: it is shown this once.

    \b
    Example:
      flux tokens create deploy --role operator --expires 30d
    """
    from flux.cli.details import iso
    from flux.server import tokens as use_cases

    seconds = _seconds(expires) if expires is not None else None
    app = composition.current()
    token, text = use_cases.create(app.catalogue, app.clock, name, role=role.value, expires_in_seconds=seconds)
    expires_at = iso(token.expires_at) if token.expires_at is not None else None
    message(f"made the token {name}, role {role.value}, {f'until {expires_at}' if expires_at else 'for ever'}")
    message("keep it: only its hash is stored, and it is not shown again")
    if as_json:
        output.data_json({"name": name, "role": role.value, "expires_at": expires_at, "token": text})
    else:
        output.data(text)
    return Exit.OK


@tokens.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False) -> int:
    """List the tokens: their names, never what they are.

    \b
    Example:
      flux tokens list
    """
    from flux.cli.details import iso

    app = opened()
    found = app.catalogue.tokens() if app is not None else []
    rows = [(t.name, t.role, iso(t.created_at), iso(t.expires_at) if t.expires_at is not None else None) for t in found]
    columns = ("name", "role", "created_at", "expires_at")
    if as_json:
        for row in rows:
            output.data_json(dict(zip(columns, row, strict=True)), indent=None)
    elif rows:
        from flux.cli.report import print_table

        table = [(*row[:3], row[3] or "never") for row in rows]
        print_table(("token", "role", "made", "expires"), table, stream=sys.stdout)
    else:
        message(f"no tokens yet: make one with  {command('tokens', 'create', 'NAME')}")
    return Exit.OK


@tokens.command()
def revoke(name: NameArgument, as_json: JsonOption = False) -> int:
    """Revoke a token; servers refuse it at once, and close what is open with it within seconds.

    \b
    Example:
      flux tokens revoke deploy
    """
    from flux.server import tokens as use_cases

    app = opened()
    if app is None:
        raise CommandError("there is no database yet, and so no token to revoke", Exit.NOT_FOUND)
    use_cases.revoke(app.catalogue, name)
    message(f"revoked {name}", style="good")
    if as_json:
        output.data_json({"name": name})
    return Exit.OK


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text, re.ASCII)
    if match is None or int(match[1]) == 0:
        raise CommandError(f"--expires is {text!r}, which is no time: write it as 30d, 12h, 90m or 45s", Exit.USAGE)
    return int(match[1]) * _SECONDS[match[2]]
