"""One clock, one lottery: whose turn it is, and when."""

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulation.loop import MICROSECONDS, NEVER
from simulation.rules import Violation

if TYPE_CHECKING:
    from simulation.process import Process

BURST = 8  # Most callbacks of one process before it is decided anew whose turn it is.
STEPS = 400_000  # More than any seed needs: one that turns for ever fails instead of hanging.

Action = Callable[[], None]


class Trace:
    """What has happened, as a digest, and as lines if somebody wants to read them."""

    def __init__(self, *, keep: bool = False) -> None:
        self._digest = hashlib.sha256()
        self.lines: list[str] | None = [] if keep else None
        self.faults: Counter[str] = Counter()  # By kind: a simulation in which nothing goes wrong proves nothing.

    def note(self, us: int, who: str, what: str) -> None:
        line = f"{us / MICROSECONDS:12.6f} {who:8} {what}"
        self._digest.update(line.encode())
        if self.lines is not None:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()[:16]


class Universe:
    """The order of things.

    Args:
        seed: Decides it.
        trace: Is told of it.
    """

    def __init__(self, seed: int, trace: Trace) -> None:
        self.us = 0
        self.chance = random.Random(seed)
        self.trace = trace
        self.living: list[Process] = []
        self._processes: list[Process] = []
        self.running: Process | None = None
        self.broken: Violation | None = None
        self._agenda: list[tuple[int, float, int, Action]] = []
        self._numbers = 0

    def next_number(self) -> int:
        """A number that nothing else in this universe has."""
        self._numbers += 1
        return self._numbers

    def begin(self, process: "Process") -> None:
        """A process begins to live."""
        self.living.append(process)
        self._processes.append(process)

    def after(self, seconds: float, action: Action) -> None:
        """Let something happen at its time; of several things at one time, the seed decides which is first."""
        us = self.us + max(0, round(seconds * MICROSECONDS))
        heapq.heappush(self._agenda, (us, self.chance.random(), self.next_number(), action))

    def lottery(self, mean: float) -> float:
        """A duration, mostly short and sometimes long."""
        return min(self.chance.expovariate(1 / mean), 8 * mean) if mean else 0.0

    def note(self, who: str, what: str, *, fault: str = "") -> None:
        """Tell what has happened; a fault is counted, too."""
        if fault:
            self.trace.faults[fault] += 1
        self.trace.note(self.us, who, what)

    def breach(self, rule: str, text: str) -> None:
        """Note that a rule is broken; the universe ends with the step that broke it first."""
        if self.broken is None:
            self.note("rule", f"{rule}: {text}")
            self.broken = Violation(rule, f"{text}, at {self.us / MICROSECONDS:.6f} s")

    def run(self, *, until: Callable[[], bool], at_most: float) -> bool:
        """Let things happen until a condition holds; False if it does not in that time.

        Raises:
            Violation: A rule was broken.
        """
        end = self.us + round(at_most * MICROSECONDS)
        for _ in range(STEPS):
            if self.broken is not None:
                raise self.broken
            if until():
                return True
            if not self._step(end):
                return False
        raise Violation("liveness", f"{STEPS:,} steps, and it is only {self.us / MICROSECONDS:.6f} s: it never rests")

    def _step(self, end: int) -> bool:
        """One thing, of those that can happen now; else the time of the next one comes."""
        dues = [(process, process.next_due()) for process in self.living]
        first = self._agenda[0][0] if self._agenda else NEVER
        now = min([first, *(due for _, due in dues)])
        if now > end:
            self.us = end
            return False
        self.us = max(self.us, now)
        ready = [process for process, due in dues if due <= self.us]
        chosen = self.chance.randrange(len(ready) + (first <= self.us))
        if chosen < len(ready):
            self._let_run(ready[chosen])
        else:
            heapq.heappop(self._agenda)[-1]()
        return True

    def _let_run(self, process: "Process") -> None:
        self.running = process
        try:
            for _ in range(self.chance.randint(1, BURST)):
                process.turn()
                if process.next_due() > self.us or self.broken is not None:
                    break
        finally:
            self.running = None

    def end(self) -> None:
        """Every process ends here."""
        self._agenda.clear()
        for process in self._processes:
            process.end()


def describe(value: Any) -> str:
    """A value for the trace, short and the same in every run."""
    text = repr(value)
    return text if len(text) < 160 else f"{text[:150]}…{len(text)}"
