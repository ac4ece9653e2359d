"""For tests of workflows: no disk, no waiting, and a crash wherever one can happen."""

from flux.domain.exported import export_history, import_history
from flux.testing.bed import Bed
from flux.testing.crash import CrashReport, CrashTestError, crash_everywhere
from flux.testing.fakes import Faked, FakedCall, fake
from flux.testing.histories import RecordedCall, assert_called, calls_of, replay
from flux.testing.ledger import Effect, Ledger
from flux.testing.scenario import Signal
from flux.testing.virtual_time import VirtualLoop, VirtualTime

__all__ = [
    "Bed",
    "CrashReport",
    "CrashTestError",
    "Effect",
    "Faked",
    "FakedCall",
    "Ledger",
    "RecordedCall",
    "Signal",
    "VirtualLoop",
    "VirtualTime",
    "assert_called",
    "calls_of",
    "crash_everywhere",
    "export_history",
    "fake",
    "import_history",
    "replay",
]
