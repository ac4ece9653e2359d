"""What happens when a task fails: retries, a timeout, a fallback, a rollback.

flux run examples/retries.py tea

Watch for: attempts, and the waits between them, are recorded, so a crash does not start the count anew. A fallback
gives the result in place of the task; a rollback undoes what it may have done, and the task fails all the same.
"""

import asyncio
from pathlib import Path

from flux import ExecutionContext, task, workflow

CALLS = Path("calls.log")  # Stands in for a service that does not answer before the third call.


@task.with_options(retry_max_attempts=4, retry_delay=0.05, retry_on=ConnectionError)
def fetch_stock() -> int:  # A plain function runs in a thread, so it may block.
    with CALLS.open("a") as log:
        log.write("called\n")
    if CALLS.read_text().count("\n") < 3:
        raise ConnectionError("no answer")
    return 12


def usual_price(sku: str) -> float:
    return {"tea": 4.5}[sku]


@task.with_options(timeout=0.1, fallback=usual_price)
async def price_of_today(sku: str) -> float:
    await asyncio.sleep(60)  # Too slow: after the timeout, the fallback gives the result.
    return {"tea": 4.0}[sku]


def give_back(sku: str, amount: int) -> None:
    print(f"gave back {amount} {sku}")


@task.with_options(rollback=give_back)
async def take(sku: str, amount: int) -> None:
    raise ValueError(f"there are not {amount} of {sku}")


@workflow
async def shop(ctx: ExecutionContext[str]) -> str:
    stock, price = await fetch_stock(), await price_of_today(ctx.input)
    try:
        await take(ctx.input, stock + 1)
    except ValueError as error:  # The rollback has run; what the task raised arrives here.
        return f"{stock} at {price}; {error}"
    return f"sold at {price}"


if __name__ == "__main__":
    CALLS.unlink(missing_ok=True)
    ctx = shop.run("tea")
    print(ctx.output)
    print([event.type.value for event in ctx.events if event.name == "fetch_stock"])
