"""W6: what a process pays before its first task is done."""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measuring import Row, Scale, child_environment, divide, interleave, require, seconds

HELLO = """
from flux import task, workflow
@task
async def hi(x): return x
@workflow
async def w(ctx): return await hi(1)
assert w.run().output == 1
"""
CODE = {"base": "import asyncio, pydantic", "import": "import flux", "hello": HELLO}


def seconds_of(code: str) -> float:
    """How long a Python process takes, from an empty directory."""
    with tempfile.TemporaryDirectory() as folder:

        def act() -> None:
            # Popen, because communicate() on pipes costs more than some of what is measured.
            process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=child_environment())
            require(process.wait() == 0, f"a process failed that runs {code.strip()!r}")

        taken = seconds(act)
        require(code != HELLO or (Path(folder) / ".flux" / "flux.db").exists(), "hello world left no database")
        return taken


def best_ratios(tries: int = 5) -> dict[str, float]:
    """The best of some tries of each, beside the best of asyncio and pydantic; for tests/bench."""
    best = {name: min(seconds_of(code) for _ in range(tries)) for name, code in CODE.items()}
    return {"import_by_base": best["import"] / best["base"], "hello_by_base": best["hello"] / best["base"]}


def cold(scale: Scale) -> list[Row]:
    """W6, beside importing asyncio and pydantic."""
    for code in CODE.values():
        seconds_of(code)  # Installed packages have their bytecode; this writes it, wherever this runs from.
    found = interleave(scale.rounds, {name: lambda code=code: seconds_of(code) for name, code in CODE.items()})  # type: ignore[misc]
    base = found["base"]
    limits = {"import": ("`import flux`", 1.6), "hello": ("hello world from an empty directory", 3.0)}
    return [
        Row(
            workload="W6",
            what=what,
            unit="ms",
            figures=[each * 1000 for each in found[name]],
            beside="importing asyncio and pydantic",
            besides=[each * 1000 for each in base],
            ratios=divide(found[name], base),
            must=must,
            at_most=True,
        )
        for name, (what, must) in limits.items()
    ]
