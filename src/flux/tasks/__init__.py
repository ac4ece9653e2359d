"""What a workflow's body is written with, besides tasks of one's own."""

from flux.tasks.parallel import parallel
from flux.tasks.pause import pause
from flux.tasks.pipeline import pipeline
from flux.tasks.recorded import choice, now, randint, randrange, uuid4
from flux.tasks.sleep import sleep

__all__ = ["choice", "now", "parallel", "pause", "pipeline", "randint", "randrange", "sleep", "uuid4"]
