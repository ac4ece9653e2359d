"""What a workflow's body is written with, besides tasks of one's own."""

from flux.tasks.call import call
from flux.tasks.continue_as_new import continue_as_new
from flux.tasks.graph import Graph
from flux.tasks.parallel import parallel
from flux.tasks.patched import patched
from flux.tasks.pause import pause
from flux.tasks.pipeline import pipeline
from flux.tasks.progress import progress
from flux.tasks.recorded import choice, now, randint, randrange, uuid4
from flux.tasks.signal import wait_for_signal
from flux.tasks.sleep import sleep

__all__ = [
    "Graph",
    "call",
    "choice",
    "continue_as_new",
    "now",
    "parallel",
    "patched",
    "pause",
    "pipeline",
    "progress",
    "randint",
    "randrange",
    "sleep",
    "uuid4",
    "wait_for_signal",
]
