"""Messages to a running execution: an auction that takes bids until its time is over.

    flux run examples/signals.py '{"thing": "a clock", "open_for": "PT1M"}' --id lot
    flux executions signal lot bid '{"who": "Ann", "price": 20}'            in another terminal

Watch for: a bid may come before anybody waits for it, none is lost, none counts twice, and they are taken in the order
in which they were sent. The deadline is kept across restarts, and bids are taken meanwhile, too: they wait.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from flux import ExecutionContext, task, workflow
from flux.tasks import wait_for_signal


@dataclass
class Lot:
    """What is sold, and for how long it can be bid for."""

    thing: str
    open_for: timedelta


@task
async def announce(thing: str, winner: str | None, price: int) -> str:
    return f"{thing} goes to {winner} for {price}" if winner else f"nobody wants {thing}"


@workflow
async def auction(ctx: ExecutionContext[Lot]) -> str:
    winner, price = None, 0
    try:
        async with asyncio.timeout(ctx.input.open_for.total_seconds()):
            while True:
                bid = await wait_for_signal("bid")
                if bid["price"] > price:
                    winner, price = bid["who"], bid["price"]
    except TimeoutError:
        return await announce(ctx.input.thing, winner, price)


if __name__ == "__main__":
    lot = auction.start(Lot("a clock", open_for=timedelta(seconds=0.5)))
    lot.signal("bid", {"who": "Ann", "price": 20})
    # A sender that does not know whether its signal arrived sends it again, under the same id: it counts once.
    for _ in range(2):
        lot.signal("bid", {"who": "Bob", "price": 30}, client_id="bob-1")
    lot.signal("bid", {"who": "Eve", "price": 25})
    ctx = lot.wait()
    print(ctx.output)
    print([event.value["value"]["who"] for event in ctx.events if event.type == "WORKFLOW_SIGNALLED"])
