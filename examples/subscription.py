"""An execution that lives for years: it charges once a month until somebody ends it.

    flux run examples/subscription.py '{"customer": "Ann"}' --id ann
    flux executions signal ann end 'moved away'

Watch for: waiting needs no process, only a row in the database. Each year the execution begins anew, with what it must
remember as its input, so its history stays short: it is replayed from its beginning whenever the execution continues.
"""

import time
from dataclasses import dataclass, replace
from datetime import timedelta

from flux import ExecutionContext, task, workflow
from flux.errors import ExecutionTimeoutError
from flux.tasks import continue_as_new, wait_for_signal

MONTHS_A_HISTORY = 12


@dataclass(frozen=True)
class Account:
    """All that must be remembered from one history to the next."""

    customer: str
    month: timedelta = timedelta(days=30)
    months_paid: int = 0


@task
async def charge(customer: str, month: int) -> None:
    pass  # examples/order.py shows how not to charge twice.


@workflow
async def subscription(ctx: ExecutionContext[Account]) -> str:
    account = ctx.input
    for _ in range(MONTHS_A_HISTORY):
        await charge(account.customer, account.months_paid + 1)
        account = replace(account, months_paid=account.months_paid + 1)
        try:
            reason = await wait_for_signal("end", timeout=account.month)
        except ExecutionTimeoutError:
            continue  # The month is over, and nobody ended it.
        return f"{account.customer} left after {account.months_paid} months: {reason}"
    return await continue_as_new(account)


if __name__ == "__main__":
    ann = subscription.start(Account("Ann", month=timedelta(milliseconds=10)))
    time.sleep(1)  # Years pass.
    ann.signal("end", "moved away")
    ctx = ann.wait()
    print(ctx.output)
    print(f"{len(ctx.events)} events, the first is number {ctx.events[0].seq}")
