"""The garbage collector of a process that only runs executions."""

import gc

# Beside 700, Python's own.  What many executions hold at once is no garbage, and looking at it again and again took a
# quarter of the time of 100 short ones; as many objects as may wait here take a megabyte or two.
ALLOCATIONS = 10_000


def relax() -> None:
    """Look less often, and never again at what is loaded now; once, when all code is there, in a process of Flux's own.

    A program that calls `run` decides for itself: see docs/performance.md.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, *gc.get_threshold()[1:])
