"""For tests of workflows: no disk, no waiting, and a crash wherever one can happen."""

from flux.testing.bed import Bed
from flux.testing.virtual_time import VirtualLoop, VirtualTime

__all__ = ["Bed", "VirtualLoop", "VirtualTime"]
