"""A process is killed at any write and at any sync of its disk: it is continued, and what had ended is not repeated."""

import collections
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from crash.processes import HERE, SOURCE
from flux.store.sqlite import SqliteStore

EVERY = int(os.environ.get("FLUX_TEST_SYSCALL_STEP", "5"))  # 1 tries every one.
ENV = {"PYTHONPATH": f"{SOURCE}:{HERE.parent}", "PATH": "/usr/bin:/bin"}
EFFECTS = {"answered": "a b b h undo-h c".split(), "cancelled": "a tidied".split()}
ENDS = {"TASK_COMPLETED", "TASK_FAILED", "TASK_RETRY_FAILED", "TASK_ROLLBACK_COMPLETED"}

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace kills at a system call: install it"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


def killed_at(directory: Path, story: str, call: str, count: int) -> bool:
    """Run a story until its `count`-th such call; False if it ended before."""
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={count}"]
    ended = subprocess.run(
        [*strace, sys.executable, str(HERE / "syscall_victim.py"), story],
        cwd=directory,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode in {0, -9, 137}, ended.stderr
    return ended.returncode != 0


def continued(directory: Path, story: str) -> None:
    command = [sys.executable, str(HERE / "syscall_victim.py"), story]
    ended = subprocess.run(command, cwd=directory, env=ENV, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def effects(directory: Path) -> collections.Counter[str]:
    file = directory / "effects"
    return collections.Counter(file.read_text().split() if file.exists() else [])


def ended(directory: Path) -> collections.Counter[str]:
    """How often each effect is recorded as ended, by what it was called with."""
    if not (directory / ".flux" / "flux.db").exists():
        return collections.Counter()
    with closing(SqliteStore(directory / ".flux" / "flux.db")) as store:
        events = store.events("x")
    names = {e.call_id: e.value["name"] for e in events if e.type == "TASK_STARTED" and e.name != "pause"}
    found: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.type in ENDS and event.call_id in names:
            prefix = "undo-" if event.type == "TASK_ROLLBACK_COMPLETED" else ""
            found[prefix + names[event.call_id]] += 1
    return found


@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
@pytest.mark.parametrize("story", EFFECTS)
def test_whatever_was_killed_at_a_system_call_is_continued(story: str, call: str, tmp_path: Path) -> None:
    count = 1
    while True:
        directory = tmp_path / str(count)
        directory.mkdir()
        if not killed_at(directory, story, call, count):
            break
        before, recorded = effects(directory), ended(directory)
        continued(directory, story)
        after = effects(directory)
        again = after - collections.Counter(EFFECTS[story])
        assert not collections.Counter(EFFECTS[story]) - after, f"{call} {count}: an effect is missing"
        assert sum(again.values()) <= 1, f"{call} {count}: one interruption repeats one effect at most, not {again}"
        assert all(recorded[what] < before[what] or what == "b" for what in again), f"{call} {count}: {again} had ended"
        shutil.rmtree(directory)
        count += EVERY
    assert count > 20


def test_control_an_effect_that_is_not_recorded_is_repeated(tmp_path: Path) -> None:
    """The same check sees what a lost record would do."""
    seen: collections.Counter[str] = collections.Counter()
    for count in range(5, 20):
        if not seen:
            assert killed_at(tmp_path, "cancelled", "fdatasync", count)
            seen = effects(tmp_path)
    shutil.rmtree(tmp_path / ".flux")
    continued(tmp_path, "cancelled")

    assert seen["a"] == 1
    assert effects(tmp_path)["a"] == 2
