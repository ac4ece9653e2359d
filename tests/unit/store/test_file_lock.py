"""The file lock, between real processes."""

import os
import signal

from flux.store.file_lock import FileLock, is_held

HOLD = """
import sys
from pathlib import Path
from flux.store.file_lock import FileLock
lock = FileLock(Path(sys.argv[1]))
assert lock.try_acquire()
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_lock_excludes_another_process_until_it_dies(tmp_path, spawn):
    path = tmp_path / "lock"
    child = spawn(HOLD, path)
    lock = FileLock(path)

    assert is_held(path)
    assert not lock.try_acquire()
    assert not lock.acquire(seconds=0)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not is_held(path)
    assert lock.try_acquire()
    lock.close()


def test_a_lock_excludes_another_holder_in_the_same_process(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")

    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    assert second.try_acquire()
    first.close()
    second.close()
    second.close()


def test_waiting_ends_when_the_lock_is_freed(tmp_path, spawn):
    child = spawn(HOLD, tmp_path / "lock")
    lock = FileLock(tmp_path / "lock")
    child.kill()

    assert lock.acquire(seconds=10)
    lock.close()


def test_a_lock_file_that_is_missing_is_not_held(tmp_path):
    assert not is_held(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def fork_and_wait(in_child) -> tuple[int, int, int]:
    """Fork; the child runs `in_child`, reports its answer and lives until the returned pipe is closed."""
    reports, report = os.pipe()
    waits, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.write(report, b"1" if in_child() else b"0")
        os.read(waits, 1)
        os._exit(0)
    os.close(report)
    os.close(waits)
    answer = int(os.read(reports, 1) or b"9")
    os.close(reports)
    return child, go, answer


def end(child: int, go: int) -> None:
    os.close(go)
    os.waitpid(child, 0)


def test_a_forked_child_neither_keeps_nor_frees_its_parents_lock(tmp_path):
    path = tmp_path / "lock"
    lock = FileLock(path)
    lock.try_acquire()

    child, go, held_in_child = fork_and_wait(lambda: is_held(path))
    assert held_in_child == 1
    assert is_held(path)  # The child has not freed it.
    lock.close()
    assert not is_held(path)  # The child, still alive, has not kept it.
    end(child, go)


def test_a_descriptor_that_a_child_inherits_would_keep_the_lock(tmp_path):
    """The control: without the closing in the child, a dead parent would look alive."""
    path = tmp_path / "lock"
    lock = FileLock(path)
    lock.try_acquire()
    inherited = os.dup(lock._descriptor)  # A copy that nothing closes.

    child, go, _ = fork_and_wait(lambda: True)
    lock.close()
    os.close(inherited)
    assert is_held(path)
    end(child, go)
    assert not is_held(path)
