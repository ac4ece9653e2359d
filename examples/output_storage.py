"""Results that are kept elsewhere: the history holds references, and files in a folder hold the values.

flux run examples/output_storage.py '["tea", "cup"]' --id stock

Watch for: the body gets the value of `rows`, and the history has only the reference to it. The result of the workflow
is a reference, too, whose id is made of the workflow's name and the execution's id: other programs can find it.
"""

from flux import ExecutionContext, task, workflow
from flux.output_storage import LocalFileStorage

REPORTS = LocalFileStorage("reports")


@task.with_options(output_storage=REPORTS)
async def rows(items: list[str]) -> list[tuple[str, int]]:
    return [(item, len(item) * 10) for item in items]


@task
async def total(counted: list[tuple[str, int]]) -> int:
    return sum(amount for _, amount in counted)


@workflow.with_options(output_storage=REPORTS)
async def stock(ctx: ExecutionContext[list[str]]) -> dict[str, object]:
    counted = await rows(ctx.input)
    return {"items": counted, "total": await total(counted)}


if __name__ == "__main__":
    ctx = stock.run(["tea", "cup"], execution_id="stock-1")
    print(ctx.output.reference_id)
    print(REPORTS.retrieve(ctx.output))
    print([type(event.value).__name__ for event in ctx.events if event.name == "rows"])
