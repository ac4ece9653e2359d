"""One seed: a universe full of faults beside its twin without any.  And many seeds, on all cores."""

import hashlib
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from simulation.faults import Mix
from simulation.plan import Plan
from simulation.rules import Violation
from simulation.trial import Trial
from simulation.universe import Trace
from simulation.verdict import compare

EVERY = 100  # Each of these seeds runs twice.
CHUNK = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed.

    Args:
        digest: Of all that happened.
        violation: The rule that was broken, and how; empty if none was.
        faults: How many there were, by kind.
    """

    seed: int
    digest: str
    rule: str = ""
    violation: str = ""
    faults: Mapping[str, int] = field(default_factory=dict)


def run_seed(seed: int, trace: Trace | None = None) -> Outcome:
    """Run one seed, and its twin."""
    trace = trace or Trace()
    plan, mix = Plan.drawn(seed), Mix.drawn(random.Random(f"faults {seed}"))
    try:
        result = Trial(plan, mix, trace).run()
        twin = Trial(plan, mix.of_twin(), Trace()).run()
        compare(plan, result, twin)
    except Violation as violation:
        return Outcome(seed, trace.digest, violation.rule, str(violation), trace.faults)
    return Outcome(seed, trace.digest, faults=trace.faults)


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
