"""The results as a table and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measuring import FAST_SYNC_US, Row

HEAD = ("workload", "figure", "beside", "ratio (median, min-max)", "must", "aim", "reached")
RULE = ("---", "--:", "---", "--:", "--:", "--:", "---")
BEGIN, END = "<!-- figures: `make bench WRITE=1` replaces what follows -->", "<!-- end of figures -->"
NONE = "–"
SWING = 2.0  # A disk whose rate of commits differs so much between rounds was busy with something else.


def number(value: float) -> str:
    """Three digits that count, and thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def quantity(value: float, unit: str) -> str:
    """A number with its unit."""
    return f"{number(value)}{'' if unit.startswith('/') else ' '}{unit}"


def reached(row: Row, *, is_fast_disk: bool) -> str:
    """How a row did: of what is only shown, nothing is said."""
    if row.must is None:
        return NONE
    if row.needs_disk and is_fast_disk:
        return "not judged"
    if row.needs_disk and max(row.besides) > SWING * min(row.besides):
        return "disturbed"
    if row.aim is not None and row.reaches(row.aim):
        return "aim"
    return "yes" if row.reaches(row.must) else "**no**"


def limit(row: Row, value: float | None) -> str:
    """A limit, with its direction."""
    if value is None:
        return NONE
    shown = f"{value:,g}" if row.ratios else f"{value:,g} {row.unit}"
    return f"{'≤' if row.at_most else '≥'} {shown}"


def ratio(row: Row) -> str:
    """The median of the rounds, and what they lay between."""
    values = row.ratios or row.figures
    if not row.ratios and len(values) == 1:
        return NONE
    shown = f"({number(min(values))}-{number(max(values))})"
    return f"{number(median(values))} {shown}" if row.ratios else shown


def cells(row: Row, *, is_fast_disk: bool) -> list[str]:
    """One line of the table."""
    beside = f"{row.beside}: {quantity(median(row.besides), row.unit)}" if row.besides else row.beside or NONE
    return [
        f"{row.workload}: {row.what}" + (f", a task of {row.size:,}" if row.size is not None else ""),
        quantity(median(row.figures), row.unit),
        beside,
        ratio(row),
        limit(row, row.must),
        limit(row, row.aim),
        reached(row, is_fast_disk=is_fast_disk),
    ]


def table(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """Everything that was measured, in Markdown."""
    is_fast = machine["sync_us"] < FAST_SYNC_US
    lines = [HEAD, RULE, *(cells(row, is_fast_disk=is_fast) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def caption(machine: Mapping[str, Any]) -> str:
    """What was measured on, in one paragraph."""
    text = (
        f"{machine['processors']} processors, {machine['system']}, Python {machine['python']}, "
        f"SQLite {machine['sqlite']}, synchronous={machine['synchronous']}, commit {machine['commit']}; "
        f"to write and sync 4 KiB takes the disk {machine['sync_us']} µs"
    )
    text += f", and {machine['sync_us_after']} µs afterwards." if "sync_us_after" in machine else "."
    if machine.get("short"):
        text += " The short form: fewer rounds, and smaller sizes of W4 and W5."
    if machine["sync_us"] < FAST_SYNC_US:
        text += " That is no sync: what compares with commits is shown, and not judged."
    return text


def document(rows: Sequence[Row], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was measured, for programs."""
    is_fast = machine["sync_us"] < FAST_SYNC_US
    judged = [{**asdict(row), "judged": row.judged, "reached": reached(row, is_fast_disk=is_fast)} for row in rows]
    return {"machine": dict(machine), "rows": judged}


def write_into(path: Path, text: str) -> None:
    """Put a text between the markers of a document."""
    before, _, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{path} lacks the lines {BEGIN!r} and {END!r}: the table goes between them")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{end}{after}", "utf-8")
