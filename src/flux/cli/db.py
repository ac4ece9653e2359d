"""`flux db`: look at the database, back it up, check it, compact it and migrate it."""

from pathlib import Path
from typing import Annotated

import typer

from flux.cli import output
from flux.cli.output import Exit, command, message
from flux.cli.run import JsonOption
from flux.settings import load

db = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look after the database.\n\n\b\nExample:\n  flux db backup backups/monday.db",
)
_MIB = 1 << 20


@db.command()
def info(as_json: JsonOption = False) -> int:
    """Show how large the database is, and what is in it.

    \b
    Example:
      flux db info --json
    """
    from flux.cli.upkeep import info as look

    found = look(load().database)
    if as_json:
        output.data_json(found)
        return Exit.OK
    oldest = found["oldest_unfinished"]
    schema = f"{found['schema']}, the latest" if found["schema"] == found["known_schema"] else str(found["schema"])
    sizes = ("size", "size_bytes"), ("log", "wal_bytes"), ("free in it", "free_bytes"), ("outputs", "outputs_bytes")
    output.data(f"{'database':<18} {output.safe(found['path'])}")
    for label, name in sizes:
        output.data(f"{label:<18} {found[name] / _MIB:,.1f} MiB")
    output.data(f"{'schema':<18} {schema}")
    states = ", ".join(f"{count:,} {state.lower()}" for state, count in found["executions"].items())
    output.data(f"{'executions':<18} {states or 'none'}")
    output.data(f"{'events':<18} {found['events']:,}")
    output.data(f"{'waiting messages':<18} {found['inbox']:,}")
    shown = "none" if oldest is None else "{execution_id} ({workflow}, {state}), of {created_at}".format(**oldest)
    output.data(f"{'oldest unfinished':<18} {output.safe(shown)}")
    if found["schema"] < found["known_schema"]:
        message(f"note: the latest schema is {found['known_schema']}, made by  {command('db', 'migrate')}")
    return Exit.OK


@db.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy; its folder is made when missing.")],
    as_json: JsonOption = False,
) -> int:
    """Copy the database, also while processes use it.

    The copy holds all that was durable when this began, and is checked. It is there whole or not at all, and replaces
    nothing. Large values go into the folder 'outputs' beside it.

    \b
    Example:
      flux db backup backups/monday.db
    """
    from flux.cli import upkeep

    path = load().database
    found = upkeep.backup(path, file)
    if as_json:
        wrong = [{"execution_id": each.execution_id, "text": each.text} for each in found]
        output.data_json({"path": str(path), "backup": str(file), **upkeep.sizes(file), "problems": wrong})
    for each in found:
        message(output.one_line(f"problem: {each.text}"), style="bad")
    if found:
        message(f"error: {file} is a copy of a database that is damaged: keep an older backup, too", style="error")
        return Exit.FAILED
    message(f"backed up {path} to {file}, and found it sound", style="good")
    return Exit.OK


@db.command()
def check(as_json: JsonOption = False) -> int:
    """Read the whole database, and say what is wrong in it; processes may use it meanwhile.

    Checked are the pages and indexes of the file, the checksum of each event, message and cached result, that no
    history has a gap, and that each large value is there. The exit code is 1 if something is wrong.

    \b
    Example:
      flux db check
    """
    from flux.cli import upkeep

    path = load().database
    found = upkeep.check(path)
    if as_json:
        wrong = [{"execution_id": each.execution_id, "text": each.text} for each in found]
        output.data_json({"path": str(path), "problems": wrong})
    else:
        for each in found:
            output.data(output.one_line(f"{each.execution_id or 'database'}: {each.text}"))
    if found:
        advice = "nothing of that is served; docs/operating.md says how to restore a backup"
        message(f"error: {len(found)} found in {path}: {advice}", style="error")
        return Exit.FAILED
    message(f"{path} is sound", style="good")
    return Exit.OK


@db.command()
def compact(as_json: JsonOption = False) -> int:
    """Give the space of what was deleted back to the disk.

    Nobody can write meanwhile, so it refuses while a process runs executions. It needs as much free space as the
    database has, twice over.

    \b
    Example:
      flux db compact
    """
    from flux.cli import upkeep

    path = load().database
    before, after = upkeep.compact(path)
    if as_json:
        output.data_json({"path": str(path), "before": before, "after": after})
    kept, was = (sum(each[name] for name in ("size_bytes", "wal_bytes")) / _MIB for each in (after, before))
    message(f"compacted {path} from {was:,.1f} to {kept:,.1f} MiB", style="good")
    return Exit.OK


@db.command()
def migrate(as_json: JsonOption = False) -> int:
    """Bring the database to the schema of this version, as the first command that uses it would.

    \b
    Example:
      flux db migrate
    """
    from flux.cli import upkeep

    path = load().database
    before, after = upkeep.migrate(path)
    if as_json:
        output.data_json({"path": str(path), "from": before, "to": after})
    message(f"{path} has schema {after}: {f'it had {before}' if before != after else 'nothing to do'}", style="good")
    return Exit.OK
