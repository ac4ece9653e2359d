"""The smallest workflow: one task that acts, one body that decides.

flux run examples/hello.py World

Watch for: the execution has an id. Run the file again, and nobody is greeted: the recorded result is shown.
"""

from flux import ExecutionContext, task, workflow


@task
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@workflow
async def hello(ctx: ExecutionContext[str]) -> str:
    return await greet(ctx.input)


if __name__ == "__main__":
    ctx = hello.run("World", execution_id="hello")
    print(ctx.output)
