"""Runs the table in a process of its own, which may hash texts otherwise: `record FOLDER` or `replay FOLDER`.

Prints, as JSON, the output of each body; `replay` continues what `record` left, and fails if a task runs again.
"""

import asyncio
import dataclasses
import json
import pickle
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from flux import ExecutionContext, workflow
from flux.errors import NonDeterminismError
from flux.store.sqlite import SqliteStore
from support.constructs import CHANCE, TABLE, WORLD_DECIDES
from support.crashes import Trial
from support.law import check_went_on, facts, outcome
from support.simulation import EXECUTION, Simulation, cuts, finished_calls, shape_of
from support.stories import STORIES
from support.world import work

UNORDERED = "set_of_texts"


@workflow.with_options(version="1", name=UNORDERED)
async def set_of_texts(ctx: ExecutionContext[Any]) -> Any:
    """What no engine can make to order: a set of texts is ordered by their hashes."""
    return await asyncio.gather(*(work(text) for text in {"a", "b", "c", "d", "e", "f"}))  # noqa: PLC0208


BODIES = {**TABLE, UNORDERED: set_of_texts}


def record(folder: Path) -> dict[str, Any]:
    """Run every body once, and tell every story once."""
    outputs = {name: Simulation(folder / name, body, seed=3).run().output for name, body in BODIES.items()}
    (folder / "stories").mkdir()
    for name in STORIES:
        _tell(folder / "stories", name)
    return outputs


def replay(folder: Path) -> dict[str, Any]:
    """Continue what another process recorded, from its end and from somewhere before."""
    for name in STORIES:
        _retell(folder, name)
    return {name: _replay(folder / name, name) for name in BODIES}


def _tell(folder: Path, name: str) -> None:
    course = Trial(folder / name, STORIES[name].workflow, STORIES[name].script, seed=3).run()
    moment = course.moments[len(course.moments) * 2 // 3]
    (folder / f"{name}.pickle").write_bytes(pickle.dumps((moment, facts(course))))


def _retell(folder: Path, name: str) -> None:
    moment, recorded = pickle.loads((folder / "stories" / f"{name}.pickle").read_bytes())
    stored = {each: [event.undecoded() for event in events] for each, events in moment.stored.items()}
    moment = dataclasses.replace(moment, stored=stored)
    course = Trial(folder / "retold" / name, STORIES[name].workflow, STORIES[name].script, seed=3).run_from(moment)
    check_went_on([moment], course)
    assert outcome(course) == STORIES[name].outcome_after(stored), name
    assert STORIES[name].same != "facts" or facts(course) == recorded, name


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
