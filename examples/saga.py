"""A saga: a trip is booked whole or not at all, and what was booked is cancelled in reverse order.

    flux run examples/saga.py '{"city": "Oslo"}' --id trip
    flux run examples/saga.py '{"city": "Venice"}' --id no-cars; cat saga.log

Watch for: what is to be undone is a list in the body, so it is there again after a crash. Kill the command at any
moment and run it again: each company has done each thing once. That takes two sides: Flux does not repeat what it knows
to be done, and the companies do not repeat what they have done under the same key.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from flux import ExecutionContext, task, workflow
from flux.errors import ExecutionError

EFFECTS = Path("saga.log")  # Stands in for three companies: a line for each thing that they have done.


@dataclass
class Trip:
    """Where to; there are no cars in Venice."""

    city: str


def once(line: str) -> None:
    """Do something for a customer, unless it was done: the line holds the key by which a company knows."""
    if not EFFECTS.exists() or line not in EFFECTS.read_text().splitlines():
        with EFFECTS.open("a") as log:
            log.write(f"{line}\n")


def withdraw(what: str, key: str, trip: Trip) -> None:
    """Undo a booking that failed: did the company not get it, or was only its answer lost?  Nobody knows."""
    once(f"withdrew the {what} in {trip.city} [{key}]")


@task.with_options(name="book {what}", retry_max_attempts=2, retry_delay=0.05, rollback=withdraw)
def book(what: str, key: str, trip: Trip) -> str:
    if what == "car" and trip.city == "Venice":
        raise ConnectionError("the car company does not answer")
    once(f"booked the {what} in {trip.city} [{key}]")
    return f"the {what} in {trip.city}"


@task.with_options(name="cancel {booking}", retry_max_attempts=10)
def cancel(booking: str, key: str) -> None:
    once(f"cancelled {booking} [{key}]")


@workflow
async def saga(ctx: ExecutionContext[Trip]) -> list[str]:
    key, booked = ctx.execution_id, list[str]()
    try:
        for what in ("flight", "hotel", "car"):
            booked.append(await book(what, key, ctx.input))
    except (ExecutionError, asyncio.CancelledError):  # It failed, or somebody has cancelled the execution.
        for booking in reversed(booked):
            await cancel(booking, key)
        raise
    return booked


def main() -> None:
    for city in ("Oslo", "Venice"):
        ctx = saga.run(Trip(city), execution_id=f"trip-to-{city}")
        print(ctx.state, ctx.output)
    print(EFFECTS.read_text(), end="")


if __name__ == "__main__":
    main()
