"""Crashes everywhere: a workflow dies before and after each durable write, and must end as if it had not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flux.testing.differences import Survival, with_source
from flux.testing.killing import Killing
from flux.testing.ledger import Ledger
from flux.testing.rehearsal import Rehearsal
from flux.testing.scenario import Scenario, Signal
from flux.workflow import Workflow


class CrashTestError(AssertionError):
    """A workflow does not survive a crash; says at which point, where in the code, what differs, and what helps."""


@dataclass(frozen=True, slots=True)
class CrashReport:
    """Every crash was survived.

    Args:
        points: How many there were.
        interrupted: At how many of them a task was hit that may run at most once, and so the end may be another one.
    """

    points: int
    interrupted: int = 0

    def __str__(self) -> str:
        return f"crash points {self.points}/{self.points}"


class Point(Protocol):
    """A point at which a process can die."""

    @property
    def text(self) -> str:
        """Before or after which write."""
        ...

    @property
    def line(self) -> str:
        """Where the workflow is then, as "file:line"; may be empty."""
        ...


class Crashes(Protocol):
    """A way to crash."""

    def learn(self) -> Sequence[Point]:
        """Play the scenario without a crash; gives the points to crash at."""
        ...

    def survivals(self) -> Iterator[Survival]:
        """Crash at each of them, in order."""
        ...

    def close(self) -> None:
        """Tidy up."""
        ...


def crash_everywhere(
    workflow: Workflow[Any, Any],
    input: Any = None,  # noqa: A002
    *,
    resumes: Mapping[str, Any] | None = None,
    signals: Mapping[str, Any] | Sequence[Signal] = (),
    ledger: Ledger | None = None,
    real: bool = False,
) -> CrashReport:
    """Kill a workflow before and after each of its durable writes, continue it, and compare with a run without a crash.

    Its state, its output, what its bodies call, and what it did outside must be the same: nothing more in the ledger
    and nothing less; and no fake is asked for what was finished, or for what it is not asked without a crash.  All on
    virtual time and in memory; the ledger and the fakes remember what had happened, and forget what had not.

    Args:
        input: Of the workflow.
        resumes: The answers to its pauses, and to those of its children, by name.
        signals: What is sent to it, by name: at once and in this order, or when a `Signal` says.
        ledger: What its tasks act on; it is empty at first, and has the effects of the run without a crash afterwards.
        real: Kill child processes with SIGKILL, on a SQLite file; about half a second a point.  Time is virtual there,
            too.  The children load the workflow's module, so fakes are refused, and ledgers are those of that module.

    Raises:
        CrashTestError: A crash makes a difference; tells the first point at which it does.
        ExecutionConflictError: Without a crash, too, it waits for something that nobody brings.
        InvalidValueError: It cannot be killed for real: there are fakes, or other processes would not find it.

    Example:
        >>> print(crash_everywhere(checkout, {"order": 7}, resumes={"approval": "yes"}, ledger=ledger))
        crash points 24/24
    """
    if isinstance(signals, Mapping):
        signals = [Signal(name, value) for name, value in signals.items()]
    scenario = Scenario(workflow, input, {} if resumes is None else resumes, signals)
    crashes: Crashes = Killing(scenario) if real else Rehearsal(scenario, ledger or Ledger())
    try:
        points, interrupted = crashes.learn(), 0
        for number, (point, survival) in enumerate(zip(points, crashes.survivals(), strict=True), 1):
            if survival.found:
                raise CrashTestError(_explained(point, f"crash point {number} of {len(points)}", survival))
            interrupted += survival.was_interrupted
        return CrashReport(len(points), interrupted)
    finally:
        crashes.close()


def _explained(point: Point, which: str, survival: Survival) -> str:
    lines = [f"{which} fails: the process dies {point.text}"]
    lines += [f"at {with_source(point.line)}"] if point.line else []
    lines += [difference.text for difference in survival.found]
    advice = dict.fromkeys(difference.advice for difference in survival.found if difference.advice)
    return "\n  ".join([*lines, *(f"What helps: {each}." for each in advice)])
