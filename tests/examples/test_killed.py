"""The order and the saga, killed at every moment: they go on, and the world outside sees each effect once."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

ID = "seven"
CHILD = Path(__file__).with_name("killed.py")
INTERRUPTED_AT_ONCE = 2  # The most effects that a kill can catch in tasks that run: `parallel`, or two labels.


class Scenario(NamedTuple):
    example: str
    value: dict[str, object]
    outcome: str
    effects: list[str]


SHIPPED = Scenario(
    "order",
    {"items": {"tea": 2, "cup": 1}, "total": 40},
    "COMPLETED shipped: box 7",
    [
        f"charged 40 for {ID}",
        "handed box 7 over",
        "printed label 1",
        "printed label 2",
        f"reserved 1 cup for {ID}",
        f"reserved 2 tea for {ID}",
    ],
)
REFUNDED = Scenario(
    "order",
    {"items": {"tea": 2, "gin": 1}, "total": 90},
    "COMPLETED refunded: there is no gin left",
    [
        f"charged 90 for {ID}",
        f"refunded what was paid for {ID}",
        f"released what was reserved for {ID}",
        f"reserved 2 tea for {ID}",
    ],
)
UNDONE = Scenario(
    "saga",
    {"city": "Venice"},
    "FAILED the car company does not answer",
    [
        "booked the flight in Venice",
        "booked the hotel in Venice",
        "cancelled the flight in Venice",
        "cancelled the hotel in Venice",
        "withdrew the car in Venice",
    ],
)
SCENARIOS = {"shipped": SHIPPED, "refunded": REFUNDED, "undone": UNDONE}


class World:
    """A directory in which a scenario is played."""

    def __init__(self, scenario: Scenario, directory: Path, **environment: str) -> None:
        self._scenario, self._directory, self._environment = scenario, directory, environment
        directory.mkdir()

    def play(self, moment: str = "never", number: int = 0) -> str | None:
        """Run it, from where it was to the end; None if it was killed."""
        command = [sys.executable, str(CHILD), self._scenario.example, json.dumps(self._scenario.value), ID]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
        done = subprocess.run(
            [*command, moment, str(number)],
            cwd=self._directory,
            env=clean | self._environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode in {0, -signal.SIGKILL}, done.stderr
        return None if done.returncode else done.stdout.strip()

    @property
    def effects(self) -> list[str]:
        """What was done outside, without the keys."""
        lines = (self._directory / f"{self._scenario.example}.log").read_text().splitlines()
        return sorted(line.partition(" [")[0] for line in lines)

    @property
    def asked_again(self) -> int:
        lines = (self._directory / "asked.log").read_text().splitlines()
        return sum(times - 1 for times in Counter(lines).values())


def moments(scenario: Scenario, directory: Path, kind: str) -> Iterator[World]:
    """The scenario, killed at the first moment of a kind and continued, at the second, and so on to the last."""
    for number in count(1):
        world = World(scenario, directory / f"{kind}-{number}")
        if world.play(kind, number) is not None:
            return
        assert world.play() == scenario.outcome
        assert world.effects == scenario.effects
        assert world.asked_again <= INTERRUPTED_AT_ONCE
        yield world


@pytest.mark.parametrize("scenario", [SHIPPED, UNDONE], ids=["order", "saga"])
def test_an_effect_that_a_kill_kept_from_being_recorded_is_not_repeated(tmp_path: Path, scenario: Scenario):
    world = World(scenario, tmp_path / "world")

    assert world.play("effect", 3) is None
    assert world.play() == scenario.outcome
    assert world.effects == scenario.effects
    assert world.asked_again == 1


@pytest.mark.parametrize("scenario", [SHIPPED, UNDONE], ids=["order", "saga"])
def test_a_world_outside_that_forgets_keys_would_show_the_repetition(tmp_path: Path, scenario: Scenario):
    world = World(scenario, tmp_path / "world", FORGETFUL="yes")

    world.play("effect", 3)
    world.play()

    assert len(world.effects) == len(scenario.effects) + 1


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_kill_at_any_commit_and_after_any_effect_changes_nothing(tmp_path: Path, scenario: Scenario):
    with ThreadPoolExecutor(2) as pool:
        plays = [
            pool.submit(lambda kind: list(moments(scenario, tmp_path, kind)), kind) for kind in ("commit", "effect")
        ]
        commits, effects = (play.result() for play in plays)

    assert len(effects) == len(scenario.effects)
    assert len(commits) > len(effects)
    assert any(world.asked_again for world in effects)


def test_an_execution_that_is_through_is_not_run_again(tmp_path: Path):
    world = World(SHIPPED, tmp_path / "world")

    assert world.play() == world.play() == SHIPPED.outcome
    assert world.effects == SHIPPED.effects
    assert world.asked_again == 0
