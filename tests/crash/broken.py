"""Builds that break a promise, for the controls: patches of the process that asks for them."""

import re

import flux.store.sqlite as adapter
from flux.engine.lease import Lease


def no_quarantine() -> None:
    """BROKEN where that is the question; sound for a test whose own kills may meet an execution ever again."""
    adapter.SqliteStore._quarantine = staticmethod(lambda cursor, worker: 0)


def no_heartbeat() -> None:
    """It does not learn that it was taken for dead, so that nothing but the fence stands between."""
    Lease.beat = lambda self: None


def no_fence() -> None:
    """BROKEN: an append does not compare the fence."""
    adapter._ADVANCE = re.sub(r"\bfence = \?", "? IS NOT NULL", adapter._ADVANCE)
    for name in ("finish_execution", "park_execution"):
        adapter._SQL[name] = adapter._SQL[name].replace("fence = :fence", ":fence IS NOT NULL")
