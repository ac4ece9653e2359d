"""A body that is right survives every crash: the table of constructs, and programs that nobody thought of."""

import asyncio
import random
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from flux import ExecutionContext, workflow
from flux.domain.events import ExecutionEventType as Type
from flux.engine.calls import current_attempt
from flux.testing import CrashTestError, Ledger, crash_everywhere
from laws.test_generated_bodies import Interpreter, Program, programs
from support.constructs import TABLE
from support.world import LONGEST_US, World

LEDGER = Ledger()
# Its output tells how long the clean-up of a cancelled task took, which is not made again after a crash.
CLEAN_UP_DECIDES = {"timeout_of_a_task_that_tidies_up"}


class LedgerWorld:
    """Stands in for the world of the table: effects are in a ledger, and durations are those of the loop alone."""

    seed = 3

    def __init__(self) -> None:
        self.failures: dict[str, int] = defaultdict(int)

    def act(self, argument: Any) -> tuple[str, int]:
        running = current_attempt()
        assert running is not None
        call, calls = running.call, running._calls
        attempt = sum(event.type is Type.TASK_RETRY_FAILED for event in calls.history.calls[call.id].progress)
        key = f"{calls.idempotency_key(call)} {running._prefix} {attempt}"
        LEDGER.act(call.name, call.id, attempt, repr(argument), key=key)
        return call.id, attempt

    async def spend(self, call: tuple[str, int], seconds: float | None = None) -> None:
        drawn = random.Random(f"{self.seed}:{call}").randint(1, LONGEST_US) / 1_000_000
        await asyncio.sleep(drawn if seconds is None else seconds)


class WhoeverAsks(dict[str, Any]):
    """Answers every pause, with its own name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> str:
        return name


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> LedgerWorld:
    world = LedgerWorld()
    monkeypatch.setattr(World, "current", world, raising=False)
    return world


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TABLE if name not in CLEAN_UP_DECIDES])
def test_a_construct_of_the_table_survives_every_crash(name: str, world: LedgerWorld):
    assert crash_everywhere(TABLE[name], resumes=WhoeverAsks(), ledger=LEDGER).points > 1


@pytest.mark.parametrize("name", CLEAN_UP_DECIDES)
def test_what_only_a_clean_up_decides_is_seen(name: str, world: LedgerWorld):
    """The control of the above: an output that differs, if only by a quarter of a second."""
    with pytest.raises(CrashTestError, match="dies right before the append of TIMER_FIRED"):
        crash_everywhere(TABLE[name], resumes=WhoeverAsks(), ledger=LEDGER)


PROGRAM: list[Program] = []


@workflow.with_options(version="1")
async def generated_program(ctx: ExecutionContext[Any]) -> Any:
    interpreter = Interpreter()
    await interpreter.run(PROGRAM[-1], "p")
    return interpreter.log


@pytest.mark.slow
def test_generated_programs_survive_every_crash(world: LedgerWorld):
    seeds = iter(range(1_000))

    @settings(max_examples=40, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(program=programs)
    def survives(program: Program) -> None:
        PROGRAM[:] = [program]
        world.seed = next(seeds)
        crash_everywhere(generated_program, resumes=WhoeverAsks(), ledger=LEDGER)

    survives()
