"""Killed at any commit of its retries, its timeout, its fallback or its rollback, a call goes on where it was."""

import collections
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crash.checker import Checker, Violation
from crash.processes import PATIENCE_SECONDS, Child, child

COMMITS = 60  # More than any of these executions takes.
RETRIES = {"act": 0, "fail_twice": 4, "fail_always": 2, "linger": 1, "block": 1, "cancel_all": 0}
ASIDE = ("TASK_FALLBACK", "TASK_ROLLBACK")
OUTPUTS = {
    "retried": ["first", "last"],
    "exhausted": ["ConnectionError: first", "last"],
    "replaced": ["instead of first", "last"],
    "replaced_in_vain": ["KeyError: 'first'", "last"],
    "undone": ["ConnectionError: first", "last"],
    "undone_in_vain": ["ConnectionError: first", "last"],
    "late": ["instead of first", "last"],
    "late_in_thread": ["", "last"],
    "cancelled": None,
    "enclosed": ["inside", "instead of inside-late"],
}


class World:
    """A directory in which one execution is run by processes that kill themselves."""

    def __init__(self, directory: Path, name: str, killer: Child) -> None:
        directory.mkdir()
        self.directory, self.name, self._killer = directory, name, killer
        self.checker = Checker(directory)
        self.kills = 0

    def run(self, when: str = "never", commit: int = 0) -> bool:
        """Run it until it is killed; False if it came to its end before."""
        self._killer.say(f"{PATIENCE_SECONDS - 5} {self.directory} {self.name} {when} {commit}")
        code = self._killer.line()
        assert code in {"0", "-9"}, f"it ended by itself, with {code}"
        self.checker.look([self.name])
        self._check()
        self.kills += code == "-9"
        return code == "-9"

    def finish(self) -> None:
        assert not self.run()
        events = self.checker.histories[self.name]
        assert events[-1].type == ("WORKFLOW_CANCELLED" if self.name == "cancelled" else "WORKFLOW_COMPLETED")
        if self.name == "late_in_thread":
            assert events[-1].value[0].startswith("ExecutionTimeoutError"), events[-1].value
        else:
            assert events[-1].value == OUTPUTS[self.name]

    def _check(self) -> None:
        """Beside what holds for every execution: no attempt too many, none too early, and what follows is once."""
        events = self.checker.histories[self.name]
        by_call = collections.defaultdict(list)
        for event in events:
            by_call[event.call_id].append(event)
        times = [line.split() for line in self._lines("times")]
        for call_id, call in by_call.items():
            counts = collections.Counter(str(event.type) for event in call)
            retries = [e.value["current_attempt"] for e in call if e.type == "TASK_RETRY_STARTED"]
            if call_id and retries != list(range(1, len(retries) + 1)):
                raise Violation(f"{self.name}: the retries were {retries}")
            if len(retries) > RETRIES.get(call[0].name, 0):
                raise Violation(f"{self.name}: {len(retries)} retries of {call[0].name}")
            for what in ASIDE:
                if counts[f"{what}_STARTED"] > 1 or counts[f"{what}_COMPLETED"] + counts[f"{what}_FAILED"] > 1:
                    raise Violation(f"{self.name}: {what} is recorded twice")
            for failed in (e for e in call if e.type == "TASK_RETRY_FAILED"):
                key, due_us = call[0].value["key"], failed.detail["due_at"]
                early = [at for who, at in times if who == key and failed.time_us < int(at) < due_us]
                if early:
                    raise Violation(f"{self.name}: {key} was tried again before its time")
        began = {
            f"{e.type.split('_')[1].lower()} {self.name} {by_call[e.call_id][0].value['key']}"
            for e in events
            if e.type.startswith(ASIDE) and e.type.endswith("STARTED")
        }
        for line, count in collections.Counter(self._lines("aside")).items():
            if line.startswith(("fallback", "rollback")) and line not in began:
                raise Violation(f"{self.name}: {line} before that was recorded")
            if count > 1 + self.kills:
                raise Violation(f"{self.name}: {line}, {count} times in {self.kills} deaths")

    def _lines(self, name: str) -> list[str]:
        file = self.directory / name
        return file.read_text().splitlines() if file.exists() else []


def kill_at_one(directory: Path, name: str, build: str, when: str) -> int:
    """Kill an execution at one of its commits, and then let it end, in as many worlds as it has commits."""
    with child("transitions.py", directory, build) as killer:
        for commit in itertools.count(1):
            world = World(directory / f"{when}-{commit}", name, killer)
            was_killed = world.run(when, commit)
            world.finish()
            if not was_killed:
                return commit - 1
    raise AssertionError


def kill_at_each(directory: Path, name: str, build: str) -> int:
    """Kill an execution after each of its commits, so that every process makes one."""
    with child("transitions.py", directory, build) as killer:
        world = World(directory / "each", name, killer)
        while world.run("after", 1):
            assert world.kills < COMMITS
        world.finish()
        return world.kills


def kill_everywhere(directory: Path, name: str, build: str) -> int:
    """Do all of that; returns how often it was killed."""
    with ThreadPoolExecutor(3) as pool:
        lanes = [pool.submit(kill_at_one, directory, name, build, when) for when in ("before", "after")]
        lanes.append(pool.submit(kill_at_each, directory, name, build))
        return sum(lane.result() for lane in lanes)


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_call_that_is_killed_at_any_commit_goes_on_where_it_was(tmp_path: Path, name: str) -> None:
    kills = kill_everywhere(tmp_path, name, "sound")

    print(kills, "kills")
    assert kills > 8


@pytest.mark.parametrize(
    ("build", "name", "broken"),
    [
        # Who forgets how often it tried begins anew at once: whichever the check comes upon first.
        ("forget_attempts", "exhausted", "retries|before its time"),
        ("forget_backoff", "retried", "before its time"),
    ],
)
def test_the_check_finds_a_build_that_forgets(tmp_path: Path, build: str, name: str, broken: str) -> None:
    with pytest.raises(Violation, match=broken):
        kill_at_one(tmp_path, name, build, "after")
