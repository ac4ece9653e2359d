"""`flux secrets`: what tasks may request by name; values go in, and none comes out."""

import os
import sys
from typing import Annotated

import typer

from flux import app as composition
from flux.cli import completion, loading, output
from flux.cli.output import CommandError, Exit, command, duration, message
from flux.cli.places import opened
from flux.cli.run import JsonOption
from flux.settings import load

secrets = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep secrets for tasks, encrypted in the database.\n\n\b\nExample:\n  flux secrets set API_KEY",
)
NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Letters, digits and _.", autocompletion=completion.secrets)
]


@secrets.command("set")
def set_(
    name: NameArgument,
    value: Annotated[
        str | None, typer.Argument(metavar="VALUE", help="Better left out: it is asked for.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Keep a secret, in place of an older one of that name.

    The value is asked for on a terminal, without showing it, and else read from standard input.

    \b
    Examples:
      flux secrets set API_KEY
      flux secrets set CERTIFICATE < certificate.pem
    """
    from flux.domain.redaction import SHORTEST
    from flux.secret_managers.manager import check_name, outside

    check_name(name)
    if value is not None:
        message(
            "warning: a value on the command line stays in the history of the shell, and meanwhile shows in the list "
            f"of processes: leave it out, as in  {command('secrets', 'set', name)}"
        )
    value = _read(name) if value is None else value
    if not value:
        raise CommandError(f"the value of {name} is empty, so nothing was changed: give one", Exit.USAGE)
    app = composition.current()
    app.secrets.save(name, value)
    version = next(each.version for each in app.store.secrets() if each.name == name)
    message(f"kept {name}, version {version}, in {app.settings.database}", style="good")
    if len(value) < SHORTEST:
        message(f"note: with fewer than {SHORTEST} characters it is not looked for in results, arguments and errors")
    if name in (others := outside(os.environ)):
        message(f"note: the one of that name in the {_PLACES[others[name].where]} wins over it")
    if as_json:
        output.data_json({"name": name, "version": version})
    return Exit.OK


@secrets.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False) -> int:
    """List the names of all secrets, and where each is found.

    \b
    Example:
      flux secrets list
    """
    from flux.cli.details import iso
    from flux.secret_managers.manager import outside

    app = opened()
    found = app.secrets.listed() if app is not None else sorted(outside(os.environ).values())
    if as_json:
        for name, where, version, at in found:
            data = {"name": name, "from": where, "version": version or None, "set_at": iso(at) if at else None}
            output.data_json(data, indent=None)
    elif found:
        from flux.cli.report import print_table

        now = app.clock.now() if app is not None else 0
        table = [(n, w, str(v or ""), f"{duration(now - at)} ago" if at else "") for n, w, v, at in found]
        print_table(("name", "from", "version", "set"), table, stream=sys.stdout)
    else:
        message(f"no secrets yet: keep one with  {command('secrets', 'set', 'NAME')}")
    return Exit.OK


@secrets.command()
def remove(name: NameArgument, as_json: JsonOption = False) -> int:
    """Forget a secret of the database.

    \b
    Example:
      flux secrets remove API_KEY
    """
    app = opened()
    listed = app.secrets.listed() if app is not None else []
    kept = [each.name for each in listed]
    if app is None or name not in {each.name for each in app.store.secrets()}:
        hint = loading.did_you_mean(name, kept) if name not in kept else "; it is kept elsewhere"
        raise CommandError(
            f"there is no secret {name!r} in the database: see  {command('secrets', 'list')}{hint}",
            Exit.NOT_FOUND,
        )
    app.secrets.remove(name)
    message(f"removed {name}", style="good")
    if as_json:
        output.data_json({"name": name})
    return Exit.OK


@secrets.command()
def rotate(as_json: JsonOption = False) -> int:
    """Make a new key, and encrypt all secrets of the database anew with it.

    The older keys stay beside it, for other databases and for backups.

    \b
    Example:
      flux secrets rotate
    """
    app = opened()
    if app is None:
        raise CommandError(f"there is no database {load().database} yet, and so nothing to encrypt", Exit.NOT_FOUND)
    changed = app.secrets.rotate()
    keys, where = app.secrets.keys.all(), str(app.secrets.keys.path or "FLUX_SECRET_KEYS")
    message(
        f"encrypted {changed} {'secret' if changed == 1 else 'secrets'} anew with the key {keys[0].id}, the first of "
        f"{len(keys)} in {where}",
        style="good",
    )
    if as_json:
        output.data_json({"key_id": keys[0].id, "keys": where, "secrets": changed})
    return Exit.OK


_PLACES = {"env": "environment", "file": "folder FLUX_SECRETS_DIR"}


def _read(name: str) -> str:
    """The value from the terminal, or from standard input without the line end behind it."""
    try:
        if sys.stdin is not None and sys.stdin.isatty():
            from getpass import getpass

            return getpass(f"value of {name}: ")
        return sys.stdin.buffer.read().decode().removesuffix("\n") if sys.stdin is not None else ""
    except EOFError:
        return ""
    except UnicodeDecodeError:
        raise CommandError(f"the value of {name} is no text: encode it, with base64 for one", Exit.USAGE) from None
