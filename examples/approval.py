"""A workflow that waits for a person; meanwhile it is a row in the database, and no process is needed.

flux run examples/approval.py '{"who": "Ann", "amount": 250}' --id trip
flux executions resume trip yes

Watch for: the first command ends, with exit code 4. Months later the second one goes on, on the same line of the body.
"""

from dataclasses import dataclass

from flux import ExecutionContext, pause, task, workflow


@dataclass
class Expense:
    """What somebody wants to spend."""

    who: str
    amount: int


@task
async def pay(expense: Expense) -> str:
    return f"paid {expense.amount} to {expense.who}"


@workflow
async def approval(ctx: ExecutionContext[Expense]) -> str:
    expense = ctx.input
    if expense.amount > 100:
        answer = await pause("approval", output=expense)
        if answer != "yes":
            return f"refused: {answer}"
    return await pay(expense)


if __name__ == "__main__":
    ctx = approval.run(Expense("Ann", 250))
    print(ctx.state)
    ctx = approval.resume(ctx.execution_id, "yes")  # In life, from another process, days later.
    print(ctx.state, ctx.output)
