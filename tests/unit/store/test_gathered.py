"""What several threads append at once is stored in few commits, and each is told of its own."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from flux.errors import StoreError
from flux.store.gathered import Gathered

PATIENCE_SECONDS = 20


class Disk:
    """Stands still in its first commit until it is told to go on; answers each append with itself."""

    def __init__(self, error=None):
        self.commits, self._error = [], error
        self.is_reached, self.may_go_on = threading.Event(), threading.Event()

    def commit(self, appends):
        self.commits.append(list(appends))
        if len(self.commits) == 1:
            self.is_reached.set()
            assert self.may_go_on.wait(PATIENCE_SECONDS)
        elif len(self.commits) == 2 and self._error is not None:
            raise self._error
        return list(appends)


def crowd(disk, brought):
    """The first of these is being committed while the others come."""
    gathered = Gathered(disk.commit)
    with ThreadPoolExecutor(len(brought)) as pool:
        answers = [pool.submit(gathered.append, brought[0])]
        assert disk.is_reached.wait(PATIENCE_SECONDS)
        answers += [pool.submit(gathered.append, each) for each in brought[1:]]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(gathered._waiting) < len(brought) - 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        disk.may_go_on.set()
    return gathered, answers


def test_what_comes_during_a_commit_is_in_the_next_one_and_each_has_its_answers():
    disk = Disk()

    _, answers = crowd(disk, [["a"], ["b", "c"], ["d"], []])

    assert [answer.result() for answer in answers] == [["a"], ["b", "c"], ["d"], []]
    assert [sorted(commit) for commit in disk.commits] == [["a"], ["b", "c", "d"]]


def test_an_error_is_of_all_in_that_commit_and_of_nobody_else():
    disk = Disk(StoreError("full"))

    gathered, (first, *others) = crowd(disk, [["a"], ["b"], ["c"]])

    assert first.result() == ["a"]
    assert [str(other.exception()) for other in others] == ["full", "full"]
    assert gathered.append(["d"]) == ["d"]


def test_a_ctrl_c_is_of_the_thread_that_commits_and_the_others_do_not_know_what_is_stored():
    disk = Disk(KeyboardInterrupt())

    _, (first, *others) = crowd(disk, [["a"], ["b"], ["c"]])

    assert first.result() == ["a"]
    kinds = sorted(type(other.exception()).__name__ for other in others)
    assert kinds == ["KeyboardInterrupt", "StoreError"]
