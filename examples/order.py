"""An order from payment to shipment, with everything that can go wrong on the way.

    flux run examples/order.py:order '{"items": {"tea": 2, "cup": 1}, "total": 40}' --id order-1
    flux executions signal order-1 packed 'box 7'

The first command waits for the warehouse: stop it, or send the signal from another terminal. Watch for:

- `charge` passes the bank a key, the same in every attempt and after every crash, so nobody pays twice.
- The warehouse has three days. When it needs longer, the order is undone: the money goes back, and so does the stock.
- The same happens when an item is sold out, when the shipment fails, and when the execution is cancelled.
- The shipment is an execution of its own, which tells how far it is while it runs.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from flux import ExecutionContext, TaskMetadata, task, workflow
from flux.errors import ExecutionConflictError, ExecutionError
from flux.tasks import parallel, progress, wait_for_signal

EFFECTS = Path("order.log")  # Stands in for the bank, the warehouse and the courier: a line for each thing done.
GIVEN: Any = None  # By Flux, at each call; the default tells type checkers that callers leave it out.


@dataclass
class Order:
    """What somebody has ordered."""

    items: dict[str, int]
    total: int
    patience: timedelta = timedelta(days=3)


class Parcel(NamedTuple):
    """What the courier is given."""

    box: str
    labels: int


def once(key: str, line: str) -> None:
    """Do something outside, unless it was done under this key, as banks and couriers do with a repeated request."""
    if not EFFECTS.exists() or f"[{key}]" not in EFFECTS.read_text():
        with EFFECTS.open("a") as log:
            log.write(f"{line} [{key}]\n")


@task.with_options(metadata=True, retry_max_attempts=3, retry_delay=0.1)
async def charge(order_id: str, amount: int, metadata: TaskMetadata = GIVEN) -> None:
    once(metadata.idempotency_key, f"charged {amount} for {order_id}")


@task.with_options(retry_max_attempts=10)
async def refund(order_id: str) -> None:
    once(f"refund {order_id}", f"refunded what was paid for {order_id}")


@task.with_options(name="reserve {item}", metadata=True)
async def reserve(order_id: str, item: str, amount: int, metadata: TaskMetadata = GIVEN) -> None:
    if item == "gin":
        raise LookupError("there is no gin left")
    once(metadata.idempotency_key, f"reserved {amount} {item} for {order_id}")


@task.with_options(retry_max_attempts=10)
async def release(order_id: str) -> None:
    once(f"release {order_id}", f"released what was reserved for {order_id}")


@task.with_options(metadata=True)
async def print_labels(parcel: Parcel, metadata: TaskMetadata = GIVEN) -> None:
    for number in range(1, parcel.labels + 1):
        once(f"{metadata.idempotency_key}/{number}", f"printed label {number}")
        progress(number / parcel.labels)


@task.with_options(metadata=True, retry_max_attempts=5)
async def hand_over(parcel: Parcel, metadata: TaskMetadata = GIVEN) -> str:
    once(metadata.idempotency_key, f"handed {parcel.box} over")
    return parcel.box


@workflow
async def shipment(ctx: ExecutionContext[Parcel]) -> str:
    await print_labels(ctx.input)
    return await hand_over(ctx.input)


@workflow
async def order(ctx: ExecutionContext[Order]) -> str:
    order_id, wanted = ctx.execution_id, ctx.input
    try:
        await charge(order_id, wanted.total)
        for item, amount in wanted.items.items():
            await reserve(order_id, item, amount)
        box = await wait_for_signal("packed", timeout=wanted.patience)
        shipped = await shipment(Parcel(box, labels=len(wanted.items)))
    except (ExecutionError, asyncio.CancelledError) as error:
        # Also of a task that failed or was cancelled nobody knows how far it came: undo whatever there is.
        await parallel(refund(order_id), release(order_id))
        if isinstance(error, asyncio.CancelledError):
            raise
        return f"refunded: {error}"
    return f"shipped: {shipped}"


def main() -> None:
    for number, items in enumerate([{"tea": 2, "cup": 1}, {"tea": 1, "gin": 1}], 1):
        handle = order.start(Order(items, total=40), execution_id=f"order-{number}")
        with suppress(ExecutionConflictError):  # This file was run before, and the order is through.
            handle.signal("packed", f"box {number}", client_id="warehouse-1")  # A repeat is ignored.
        print(handle.wait().output)
    print(EFFECTS.read_text(), end="")


if __name__ == "__main__":
    main()
