"""`python -m simulation`: run many seeds, or look at one."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from simulation.run import EVERY, Outcome, digest_of, run_many, run_seed
from simulation.universe import Trace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; 1 if a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run, from the first one on")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, help="how many processes run them; one for each core by default")
    parser.add_argument("--seed", type=int, help="run this one alone")
    parser.add_argument("--trace", action="store_true", help="with --seed: show all that happens")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return show(options.seed, keep=options.trace)
    return search(range(options.first, options.first + options.seeds), options.processes)


def show(seed: int, *, keep: bool) -> int:
    """Run one seed."""
    trace = Trace(keep=keep)
    outcome = run_seed(seed, trace)
    for line in trace.lines or ():
        print(line)
    print(f"seed {seed}, trace {outcome.digest}: {outcome.violation or 'every rule holds'}")
    return int(bool(outcome.rule))


def search(seeds: range, processes: int | None) -> int:
    """Run many seeds."""
    failed: list[Outcome] = []
    faults: Counter[str] = Counter()
    began = time.monotonic()

    def see(outcome: Outcome) -> None:
        faults.update(outcome.faults)
        if outcome.rule:
            failed.append(outcome)
            print(f"seed {outcome.seed} fails: {outcome.violation}", file=sys.stderr)

    digest = digest_of(run_many(seeds, processes=processes), see)
    seconds = time.monotonic() - began
    print(f"trace {digest}; every {EVERY}th seed ran twice, with the same trace")
    print("what went wrong:", ", ".join(f"{count:,} {kind}" for kind, count in sorted(faults.items())))
    print(f"{len(seeds):,} seeds, {len(failed)} failed, in {seconds:.0f} s ({len(seeds) / seconds:.0f} a second)")
    if failed:
        print("To see how: python -m simulation --seed N --trace, for N in", *[each.seed for each in failed[:20]])
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
