"""What the engine costs, beside plain single-row commits of the same disk in the same run.

Run it:  make bench        (prints one line of JSON for each round, then the medians)
"""

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flux import ExecutionContext, task, workflow

HELLO = """
from flux import task, workflow
@task
async def hi(x): return x
@workflow
async def w(ctx): return await hi(1)
w.run()
"""


@task
async def step(x: int) -> int:
    return x


@workflow
async def sequential(ctx: ExecutionContext[int]) -> None:
    for i in range(ctx.input):
        await step(i)


@workflow
async def parallel(ctx: ExecutionContext[int]) -> None:
    await step.map(range(ctx.input))


def commits_per_second(count: int = 1000) -> float:
    """C: single-row commits of plain sqlite3, WAL warmed past a checkpoint, FULL."""
    with tempfile.TemporaryDirectory() as folder:
        db = sqlite3.connect(Path(folder) / "plain.db", isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE facts (id INTEGER PRIMARY KEY, value BLOB)")
        for round_ in range(2):
            if round_:
                began = time.perf_counter()
            for _ in range(1200 if not round_ else count):
                db.execute("BEGIN IMMEDIATE")
                db.execute("INSERT INTO facts (value) VALUES (?)", (b"x" * 150,))
                db.execute("COMMIT")
        rate = count / (time.perf_counter() - began)
        db.close()
    return rate


def tasks_per_second(body, count: int) -> float:
    began = time.perf_counter()
    assert body.run(count).has_succeeded
    return count / (time.perf_counter() - began)


def seconds(code: str, tries: int = 5) -> float:
    """How long a Python process takes, from an empty directory; the best of some tries."""
    # Installed packages have their bytecode; the first try writes it, wherever this runs from.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    best = float("inf")
    for _ in range(tries):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            # Popen, because communicate() on pipes costs more than some of what is measured.
            assert subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=environment).wait() == 0
            best = min(best, time.perf_counter() - began)
    return best


def engine_round() -> dict[str, float]:
    before = commits_per_second()
    figures = {"sequential": tasks_per_second(sequential, 1000), "parallel": tasks_per_second(parallel, 1000)}
    c = statistics.mean([before, commits_per_second()])
    short = statistics.median(tasks_per_second(sequential, 100) for _ in range(5))
    ratios = {f"{name}_by_c": rate / c for name, rate in figures.items()}
    return {"c": c, **figures, **ratios, "cost_at_10000_by_100": short / tasks_per_second(sequential, 10_000)}


def start_figures() -> dict[str, float]:
    bare, base = seconds("pass"), seconds("import asyncio, pydantic")
    flux, hello = seconds("import flux"), seconds(HELLO)
    return {"python": bare, "base": base, "import_by_base": flux / base, "hello_by_base": hello / base}


def main(rounds: int = 5) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FLUX_DATABASE"] = str(Path(folder) / "flux.db")
        tasks_per_second(sequential, 1000)  # Warm: a fresh file grows its WAL at every commit.
        results = []
        for _ in range(rounds):
            results.append(engine_round())
            print(json.dumps({name: round(value, 3) for name, value in results[-1].items()}), flush=True)
        medians = {name: statistics.median(result[name] for result in results) for name in results[0]}
    del os.environ["FLUX_DATABASE"]
    print(json.dumps({name: round(value, 3) for name, value in {**medians, **start_figures()}.items()}))


if __name__ == "__main__":
    main()
