"""Runs the table in a process of its own, which may hash texts otherwise: `record FOLDER` or `replay FOLDER`.

Prints, as JSON, the output of each body; `replay` continues what `record` left, and fails if a task runs again.
"""

import asyncio
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from flux import ExecutionContext, workflow
from flux.errors import NonDeterminismError
from flux.store.sqlite import SqliteStore
from support.constructs import CHANCE, TABLE, WORLD_DECIDES
from support.simulation import EXECUTION, Simulation, cuts, finished_calls, shape_of
from support.world import work

UNORDERED = "set_of_texts"


@workflow.with_options(version="1", name=UNORDERED)
async def set_of_texts(ctx: ExecutionContext[Any]) -> Any:
    """What no engine can make to order: a set of texts is ordered by their hashes."""
    return await asyncio.gather(*(work(text) for text in {"a", "b", "c", "d", "e", "f"}))  # noqa: PLC0208


BODIES = {**TABLE, UNORDERED: set_of_texts}


def record(folder: Path) -> dict[str, Any]:
    """Run every body once."""
    return {name: Simulation(folder / name, body, seed=3).run().output for name, body in BODIES.items()}


def replay(folder: Path) -> dict[str, Any]:
    """Continue what another process recorded, from its end and from somewhere before."""
    return {name: _replay(folder / name, name) for name in BODIES}


def _replay(folder: Path, name: str) -> Any:
    (file,) = folder.glob("*/flux.db")
    with closing(SqliteStore(file)) as store:
        events = store.events(EXECUTION)
    simulation = Simulation(folder / "again", BODIES[name], seed=3)
    try:
        for k in cuts(events, 3):
            again = simulation.run_from(events[:k])
            assert again.world.called & finished_calls(events[:k]) == set(), name
            if name not in CHANCE | WORLD_DECIDES | {UNORDERED}:
                assert again.shape == [shape_of(event) for event in events], name
    except NonDeterminismError:
        return "diverged"
    return again.output


if __name__ == "__main__":
    print(json.dumps({"record": record, "replay": replay}[sys.argv[1]](Path(sys.argv[2]))))
