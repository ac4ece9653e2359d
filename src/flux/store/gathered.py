"""Group commit for threads: while one of them commits, what the others bring gathers, and goes in the next commit."""

import threading
from collections.abc import Callable, Sequence

from flux.errors import StoreError
from flux.ports import Append, AppendResult

_INTERRUPTED = "the commit was interrupted, and whether it was stored is unknown: send it again"
Commit = Callable[[Sequence[Append]], list[AppendResult]]


class Gathered:
    """Appends of several threads, in as few commits as there can be.

    Args:
        commit: Writes appends in one transaction; each has its own answer.
    """

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._committing, self._gathering = threading.Lock(), threading.Lock()
        self._waiting: list[_Share] = []

    def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        """Write appends, perhaps with those of others; an error is everybody's.

        Raises:
            StoreError: As `commit`.
        """
        share = _Share(appends)
        with self._gathering:
            self._waiting.append(share)
        with self._committing:
            if not share.is_answered:
                self._commit_waiting()
        if share.error is not None:
            raise share.error
        return share.results

    def _commit_waiting(self) -> None:
        shares: list[_Share] = []
        try:
            with self._gathering:
                shares, self._waiting = self._waiting, []
            results = self._commit([append for share in shares for append in share.appends])
            for share in shares:
                share.results, results = results[: len(share.appends)], results[len(share.appends) :]
                share.is_answered = True
        except BaseException as error:  # A Ctrl-C, which may come at any line, is of one thread.
            told = error if isinstance(error, Exception) else StoreError(_INTERRUPTED)
            for share in shares:
                if not share.is_answered:
                    share.error, share.is_answered = told, True
            raise


class _Share:
    """What one thread brings, and its answer."""

    __slots__ = ("appends", "error", "is_answered", "results")

    def __init__(self, appends: Sequence[Append]) -> None:
        self.appends = appends
        self.results: list[AppendResult] = []
        self.error: Exception | None = None
        self.is_answered = False
