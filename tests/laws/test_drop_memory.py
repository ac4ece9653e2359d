"""Memory decides nothing: with its body dropped and replayed after every step, an execution takes the same course."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, workflow
from flux.domain.history import ROLLS_BACK
from support.constructs import CHANCE, TABLE
from support.simulation import Simulation, cuts
from support.world import work

Live = Any  # See conftest.


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_body_that_is_forgotten_after_every_step_takes_the_same_course(name: str, live: Live) -> None:
    """Every event but for its time, and no attempt is made twice."""
    simulation, run = live(name)

    again = simulation.run(replay_each_step=True)

    assert again.state is run.state
    assert again.output == run.output
    if name not in CHANCE:
        assert again.timeless == run.timeless
    assert again.world.ledger == run.world.ledger
    # The rollback of a cancelled call enters the ledger as what the attempt did, once.
    undone = [e.call_id for e in run.events if e.detail_data == ROLLS_BACK]
    ledger = Counter((e.call_id, e.attempt, e.name) for e in again.world.ledger)
    assert [key for key, times in ledger.items() if times > 1 + undone.count(key[0])] == []


@pytest.mark.parametrize("name", ["gather_of_two_sequences", "retries", "pauses_in_branches"])
def test_it_can_crash_meanwhile(name: str, live: Live) -> None:
    simulation, run = live(name)
    for k in cuts(run.events, 8):
        again = simulation.run_from(run.events[:k], replay_each_step=True)

        assert (again.output, again.timeless) == (run.output, run.timeless)


def test_control_what_a_body_keeps_outside_itself_is_seen_to_be_forgotten(tmp_path: Path) -> None:
    """A body that counts its own replays gives another output: it was dropped indeed."""
    replays = []

    @workflow
    async def impure(ctx: ExecutionContext[Any]) -> Any:
        replays.append(1)
        await asyncio.gather(work(1), work(2))
        return len(replays)

    kept = Simulation(tmp_path, impure).run().output
    replays.clear()
    forgotten = Simulation(tmp_path, impure).run(replay_each_step=True).output

    assert kept == 1
    assert forgotten == 3
