"""A write that finds no space, or a sync that fails, at any moment: nothing is acknowledged that is not durable."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from crash.checker import Checker, Violation
from crash.processes import HERE, SOURCE

EVERY = int(os.environ.get("FLUX_TEST_DISK_ERROR_STEP", "10"))  # 1 tries every sync, and every fifth write.
FAULTS = {"no-space": ("pwrite64", "ENOSPC", 5 * EVERY), "failed-sync": ("fdatasync", "EIO", EVERY)}
FAILED_MOMENTS = {"fdatasync": [13]}  # Moments that once found a fault; each is tried again, for ever.
LANES = 2
ADVICE = re.compile(r"StoreError: \S+flux\.db cannot be used: .*(free space, and work goes on|look at the system log)")
LINE = re.compile(r" *(\w+)\((\d+)<([^>]*)>(.*)\) += (-?\d+)")
CALLED = re.compile(r"(?:\d+ +)?(\w+)\((?:\d+<([^>]*)>)?")

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace makes system calls fail: install it"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


@dataclass
class Run:
    """One run of victim.py under strace, of which some calls fail.

    Args:
        directory: Where it runs; the trace is a file there.
        build: Of the victim.
        inject: What strace makes of which call.
    """

    directory: Path
    build: str = "sound"
    inject: str = ""

    def __call__(self) -> tuple[int, str]:
        """The exit code, and what was said."""
        strace = ["strace", "-f", "-qq", "-y", "-o", "trace", "-e", "trace=pwrite64,fdatasync,fsync,openat,close,write"]
        faults = ["-e", f"inject={self.inject}"] if self.inject else []
        ended = subprocess.run(
            [*strace, *faults, sys.executable, str(HERE / "victim.py"), "ONE_BY_ONE", self.build, "x=3"],
            cwd=self.directory,
            env={"PYTHONPATH": SOURCE, "PATH": os.environ["PATH"], "FLUX_STORE_PATIENCE_SECONDS": "0.3"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ended.returncode, ended.stderr

    def trace(self) -> list[str]:
        return (self.directory / "trace").read_text(errors="replace").splitlines()


def calls_of(run: Run, call: str) -> tuple[int, int]:
    """How many such calls there are until the first event is acknowledged, and in all."""
    named = [match.groups() for match in map(CALLED.match, run.trace()) if match]
    first = next(n for n, (name, path) in enumerate(named) if name == "write" and str(path).endswith("/acks"))
    return sum(name == call for name, _ in named[:first]), sum(name == call for name, _ in named)


def whole(trace: list[str]) -> Iterator[str]:
    """The calls of a trace, of which strace shows those in halves that others came between."""
    begun: dict[str, str] = {}
    for line in trace:
        thread, _, call = line.partition(" ")
        if line.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>")
        elif call.lstrip().startswith("<..."):
            yield begun.pop(thread, "") + call.partition("resumed>")[2]
        else:
            yield call


def check_syncs(trace: list[str]) -> int:
    """What is acknowledged was synced, and through no handle of which a sync had failed before; counts failed syncs.

    A page whose sync failed may be taken for written by the system: it counts again when it was written anew.

    Raises:
        Violation: Something was acknowledged that may be on no disk.
    """
    failed_handles: set[tuple[str, str]] = set()
    written: set[int] = set()
    lost: set[int] = set()
    failures = 0
    for call, number, path, text, answer in (match.groups() for match in map(LINE.match, whole(trace)) if match):
        handle, is_wal = (number, path), path.endswith("-wal")
        if call == "pwrite64" and is_wal:
            offset = int(text.rpartition(", ")[2])
            lost = lost - {offset} if offset else set()  # The head of a new log makes nothing of the old one.
            written.add(offset)
        elif call == "write" and is_wal:
            written, lost = written | lost, set()
        elif call in {"fdatasync", "fsync"} and is_wal:
            if int(answer) < 0:
                failed_handles.add(handle)
                failures += 1
            if handle in failed_handles:
                lost |= written
            written = set()
        elif call == "close":
            failed_handles.discard(handle)
        elif call == "write" and path.endswith("/acks") and lost:
            raise Violation("acknowledged what a failed sync may have lost")
    return failures


def new(path: Path) -> Path:
    path.mkdir()
    return path


def suffer(directory: Path, call: str, error: str, when: str) -> tuple[int, object]:
    """Let calls fail, look, and continue without faults; returns the exit code of the first run, and the output.

    Raises:
        Violation: A promise was broken.
    """
    run, checker = Run(new(directory), inject=f"{call}:error={error}:when={when}"), Checker(directory)
    code, said = run()
    assert code in {0, 1}, said
    assert code == 0 or ADVICE.search(said), said
    check_syncs(run.trace())
    checker.look(["x"])
    again, said = Run(directory)()
    assert again == 0, said
    checker.look(["x"])
    shutil.rmtree(directory)
    return code, checker.outputs()["x"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    assert run() == (0, "")
    return run


@pytest.mark.parametrize("times", ["once", "from-then-on"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_error_at_any_moment_is_never_acknowledged_and_work_goes_on(tmp_path, undisturbed, fault, times):
    call, error, step = FAULTS[fault]
    opening, count = calls_of(undisturbed, call)
    moments = [*range(1, min(opening, 4)), *range(opening + 2, count, step), *FAILED_MOMENTS.get(call, [])]
    after = "" if times == "once" else "+"

    with ThreadPoolExecutor(LANES) as threads:
        ends = list(threads.map(lambda k: suffer(tmp_path / str(k), call, error, f"{k}{after}"), moments))

    codes, outputs = zip(*ends, strict=True)
    print(dict(zip(moments, codes, strict=True)))
    checker = Checker(undisturbed.directory)
    checker.look(["x"])
    assert set(outputs) == {checker.outputs()["x"]}
    if times == "once":  # While it is opened, it says so and ends; later it goes on by itself.
        assert all(code == 0 for k, code in zip(moments, codes, strict=True) if k > opening)
    else:
        assert 1 in codes


def test_what_a_killed_process_may_not_have_synced_is_synced_before_it_is_told(tmp_path, undisturbed):
    """Killed at its last sync: its successor reads from the cache of the system, and writes nothing."""
    trace = undisturbed.trace()
    result = next(n for n, line in enumerate(trace) if "/acks>" in line and " result " in line)
    last = next(line for line in reversed(trace[:result]) if "fdatasync(" in line and "-wal>" in line)
    count = sum(line.split()[0] == last.split()[0] and "fdatasync(" in line for line in trace[:result])
    killed = Run(tmp_path, inject=f"fdatasync:signal=KILL:when={count}")
    assert killed()[0] in {-9, 137}
    shutil.copy(tmp_path / "acks", tmp_path / "acks-before")

    run = Run(tmp_path)
    assert run() == (0, "")

    told = next(n for n, line in enumerate(run.trace()) if "write(" in line and "/acks>" in line)
    assert "COMPLETED" in (tmp_path / "acks").read_text().removeprefix((tmp_path / "acks-before").read_text())
    assert any(re.search(r"(fdatasync|fsync)\(\d+<[^>]*-wal>\) += 0", line) for line in run.trace()[:told])


def failing_sync(undisturbed: Run) -> str:
    """The first sync after that of the first event, of however many migrations there are."""
    opening, _ = calls_of(undisturbed, "fdatasync")
    return f"fdatasync:error=EIO:when={opening + 1}"


def test_after_a_failed_sync_its_handle_acknowledges_nothing(tmp_path, undisturbed):
    run = Run(tmp_path, inject=failing_sync(undisturbed))

    assert run()[0] == 0
    assert check_syncs(run.trace()) > 0


def test_control_a_build_that_goes_on_with_the_handle_of_a_failed_sync_is_found(tmp_path, undisturbed):
    run = Run(tmp_path, "same_handle", inject=failing_sync(undisturbed))
    run()

    with pytest.raises(Violation, match="may have lost"):
        check_syncs(run.trace())


@pytest.mark.parametrize(("call", "error"), [("pwrite64", "ENOSPC"), ("fdatasync", "EIO")])
def test_control_a_build_that_acknowledges_what_it_could_not_write_is_found(tmp_path, undisturbed, call, error):
    opening, count = calls_of(undisturbed, call)
    found = []
    for when in range(opening + 2, count, max(1, (count - opening) // 6)):
        directory = new(tmp_path / str(when))
        Run(directory, "failures_are_successes", inject=f"{call}:error={error}:when={when}")()
        try:
            Checker(directory).look(["x"])
        except Violation as violation:
            found.append(str(violation))

    assert re.search("is lost|which is not stored|took effect", "\n".join(found)), found
