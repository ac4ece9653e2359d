"""One seed: a universe full of faults beside its twin without any.  And many seeds, on all cores."""

import hashlib
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flux.domain.execution import ExecutionState
from simulation.faults import Mix, without_faults
from simulation.rules import Violation
from simulation.trial import Plan, Result, Trial
from simulation.universe import Trace
from support.programs import gives_up

EVERY = 100  # Each of these seeds runs twice.
CHUNK = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed.

    Args:
        digest: Of all that happened.
        violation: The rule that was broken, and how; empty if none was.
    """

    seed: int
    digest: str
    rule: str = ""
    violation: str = ""


def run_seed(seed: int, trace: Trace | None = None) -> Outcome:
    """Run one seed, and its twin."""
    trace = trace or Trace()
    plan, mix = Plan.drawn(seed), Mix.drawn(random.Random(f"faults {seed}"))
    try:
        result = Trial(plan, mix, trace).run()
        twin = Trial(plan, without_faults(mix), Trace()).run()
        compare(plan, result, twin)
    except Violation as violation:
        return Outcome(seed, trace.digest, violation.rule, str(violation))
    return Outcome(seed, trace.digest)


def compare(plan: Plan, result: Result, twin: Result) -> None:
    """Both must have come to the same, except for what was cancelled: that may have been done by then.

    Raises:
        Violation: They have not.
    """
    for execution_id, end in result.ends.items():
        was_cancelled = execution_id in plan.cancelled and end[0] is ExecutionState.CANCELLED
        if not was_cancelled and end != twin.ends[execution_id]:
            raise Violation("output", f"{execution_id} ends as {end}, and its twin as {twin.ends[execution_id]}")
    if plan.cancelled or any(gives_up(request.program) for request in plan.requests):
        return  # What is given up may or may not have begun.
    if result.effects != twin.effects:
        more, less = result.effects - twin.effects, twin.effects - result.effects
        raise Violation("effects", f"the twin has not done {more}; it alone has done {less}")


def run_seed_checked(seed: int) -> Outcome:
    """Run one seed; every hundredth twice, to see that nothing is left to chance."""
    outcome = run_seed(seed)
    if seed % EVERY == 0:
        again = run_seed(seed)
        assert again == outcome, f"seed {seed} has run in two ways: {outcome} and {again}"
    return outcome


def run_many(seeds: range, *, processes: int | None = None) -> Iterator[Outcome]:
    """The outcomes of many seeds, in order, whoever runs them."""
    processes = processes or len(os.sched_getaffinity(0))
    if processes == 1:
        yield from map(run_seed_checked, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(run_seed_checked, seeds, chunksize=CHUNK)


def digest_of(outcomes: Iterator[Outcome], seen: Callable[[Outcome], None]) -> str:
    """The digest of all digests; each outcome is shown to `seen`."""
    digest = hashlib.sha256()
    for outcome in outcomes:
        digest.update(outcome.digest.encode())
        seen(outcome)
    return digest.hexdigest()[:16]
