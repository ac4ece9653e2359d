"""A census of the Python standard library: one task for each source file, a pause for approval, a report.

    flux run examples/library_census.py '{"report": "census-report"}' --id census
    flux executions resume census yes

Watch for: kill the first command at any moment and run it again. Files that were measured are not measured again.
"""

import ast
import json
import os
import sysconfig
import threading
import tokenize
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from flux import ExecutionContext, pause, task, workflow
from flux.tasks import now

BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.BoolOp, ast.IfExp, ast.comprehension)
# Tasks that are plain functions run in threads, and the parser of Python 3.11 is not safe in two of them at once.
ONE_PARSER = threading.Lock()


@dataclass
class Census:
    """What to count, and where to write."""

    report: str = "census-report"
    root: str = ""  # The standard library of this Python, if it is not said.
    side_log: str = ""  # A file to which each measurement appends a line, to show who ran when.


@dataclass
class Source:
    """One file to measure."""

    root: str
    path: str
    side_log: str

    @property
    def file(self) -> Path:
        """Where it is."""
        return Path(self.root) / self.path


@dataclass
class Measure:
    """What was found in one file."""

    path: str
    lines: int = 0
    functions: int = 0
    classes: int = 0
    complexity: int = 0
    problem: str = ""


@task.with_options(pure=True)
def find_sources(root: str) -> list[str]:
    """List the source files, relative to the root, in an order that does not depend on the disk."""
    top = Path(root)
    found = (path.relative_to(top) for path in top.rglob("*.py"))
    return sorted(str(path) for path in found if "site-packages" not in path.parts)


def unreadable(source: Source) -> Measure:
    """Count a file that is not Python of this version: the library keeps some for its own tests."""
    return Measure(source.path, problem=f"cannot be parsed ({source.file.stat().st_size:,} bytes)")


@task.with_options(fallback=unreadable, timeout=30)
def measure(source: Source) -> Measure:
    """Parse one file and count what is in it."""
    note(source.side_log, source.path)
    with tokenize.open(source.file) as file:  # In the encoding that the file itself declares.
        text = file.read()
    with ONE_PARSER:
        nodes = list(ast.walk(ast.parse(text)))
    return Measure(
        source.path,
        lines=text.count("\n"),
        functions=sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
        complexity=sum(isinstance(node, BRANCHES) for node in nodes),
    )


def note(side_log: str, path: str) -> None:
    """Append a line to the side log: one write, so that lines of several processes do not mix."""
    if side_log:
        log = os.open(side_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(log, f"{os.getpid()} {path}\n".encode())
        finally:
            os.close(log)


@task
def write_report(folder: str, markdown: str, data: dict[str, object]) -> list[str]:
    """Write both reports; writing them again gives the same files."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / "census.md").write_text(markdown, "utf-8")
    (target / "census.json").write_text(json.dumps(data, indent=1), "utf-8")
    return [str(target / "census.md"), str(target / "census.json")]


@workflow
async def library_census(ctx: ExecutionContext[Census]) -> list[str]:
    """Measure every file, ask for approval, write the report."""
    order = ctx.input or Census()
    root = order.root or sysconfig.get_path("stdlib")
    paths = await find_sources(root)
    sources = [Source(root, path, order.side_log) for path in paths]
    measures = await measure.map(sources, max_concurrent=8)
    summary = summarise(measures)
    approval = await pause("approval", output=summary)
    if str(approval).lower() not in {"yes", "y", "true", "approve", "approved"}:
        return []
    written_at = await now()
    markdown = render(summary, measures, f"{written_at:%Y-%m-%d %H:%M} UTC")
    return await write_report(order.report, markdown, {"summary": summary, "files": [asdict(m) for m in measures]})


def summarise(measures: Iterable[Measure]) -> dict[str, int]:
    """Add everything up."""
    files = list(measures)
    return {
        "files": len(files),
        "not parsed": sum(bool(m.problem) for m in files),
        "lines": sum(m.lines for m in files),
        "functions": sum(m.functions for m in files),
        "classes": sum(m.classes for m in files),
        "complexity": sum(m.complexity for m in files),
    }


def render(summary: dict[str, int], measures: list[Measure], written_at: str) -> str:
    """The report as Markdown."""
    lines = [
        "# Census of the Python standard library",
        "",
        f"Written {written_at}.",
        "",
        "| what | count |",
        "|---|--:|",
    ]
    lines += [f"| {name} | {count:,} |" for name, count in summary.items()]
    lines += ["", "## Most branches", "", "| file | lines | functions | branches |", "|---|--:|--:|--:|"]
    ranked = sorted(measures, key=lambda m: (-m.complexity, m.path))[:15]
    lines += [f"| {m.path} | {m.lines:,} | {m.functions:,} | {m.complexity:,} |" for m in ranked]
    lines += ["", "## Not parsed", ""]
    lines += [f"- {m.path}: {m.problem}" for m in measures if m.problem]
    return "\n".join([*lines, ""])
