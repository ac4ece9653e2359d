"""Tasks with `executor="process"`: as other tasks, but in a process of their own."""

from pathlib import Path

from functional.kit import run_script

TASKS = """
from flux.tasks import progress

class Broken(Exception):
    pass

@task.with_options(executor="process")
def double(x):
    return 2 * x, os.getpid()

@task.with_options(executor="process")
async def double_later(x):
    await asyncio.sleep(0)
    return 2 * x, os.getpid()

@task.with_options(executor="process")
def broken(x):
    raise Broken(f"not {x}")

@task.with_options(executor="process", timeout=1)
def hang(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(1000)

@task.with_options(executor="process")
def leave(code):
    os._exit(code)

@task.with_options(executor="process", retry_max_attempts=2, retry_delay=0)
def flaky(x):
    if once("tried"):
        os.kill(os.getpid(), signal.SIGKILL)
    return x

@task
async def other():
    return 1

@task.with_options(executor="process")
async def nested():
    return await other()

@task.with_options(executor="process")
async def telling(x):
    progress({"done": x})
    await asyncio.to_thread(progress, x + 1)
    return x

@task.with_options(executor="process", metadata=True)
def told(x, *, metadata):
    return x, metadata.task_name, metadata.attempt

def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
"""


def run(home: Path, body: str) -> str:
    """Run a script that has no guard: it must not run again in the processes of its tasks."""
    return run_script(home, TASKS + body)


def test_results_come_from_other_processes(home: Path) -> None:
    body = """
@workflow
async def flow(ctx: ExecutionContext[int]):
    return [await double(ctx.input), await double_later(ctx.input)]

output = flow.run(4).output
print([value for value, _ in output], os.getpid() in [pid for _, pid in output])
"""
    assert run(home, body) == "[8, 8] False\n"


def test_an_error_arrives_as_its_own_class_with_its_own_line(home: Path) -> None:
    body = """
@workflow
async def flow(ctx: ExecutionContext[int]):
    try:
        await broken(ctx.input)
    except Broken as error:
        return str(error), type(error.inner_exception).__name__

@workflow
async def failing(ctx: ExecutionContext[int]):
    await broken(ctx.input)

from flux import serde
print(flow.run(4).output, "raise Broken(f" in serde.traceback_of(failing.run(4).output))
"""
    assert run(home, body) == "('not 4', 'Broken') True\n"


def test_a_timeout_kills_the_process(home: Path) -> None:
    body = """
@workflow
async def flow(ctx: ExecutionContext[str]):
    try:
        await hang(ctx.input)
    except TimeoutError as error:
        return str(error)

print("timed out (1s)" in flow.run("pid").output, gone(int(open("pid").read())))
"""
    assert run(home, body) == "True True\n"


def test_the_death_of_the_process_fails_the_task_only(home: Path) -> None:
    body = """
@workflow
async def flow(ctx: ExecutionContext[int]):
    try:
        await leave(7)
    except Exception as error:
        return "exit code 7" in str(error), (await double(1))[0]

print(flow.run(1).output)
"""
    assert run(home, body) == "(True, 2)\n"


def test_a_process_that_died_is_tried_again(home: Path) -> None:
    body = """
@workflow
async def flow(ctx: ExecutionContext[int]):
    return await flaky(ctx.input)

print(flow.run(3).output)
"""
    assert run(home, body) == "3\n"


def test_calling_a_task_inside_is_refused(home: Path) -> None:
    body = """
@workflow
async def flow(ctx: ExecutionContext[int]):
    await nested()

print("cannot call other tasks" in str(flow.run(1).output))
"""
    assert run(home, body) == "True\n"


def test_a_nested_function_is_refused_and_not_tried_again(home: Path) -> None:
    body = """
@workflow
async def flow(ctx: ExecutionContext[int]):
    @task.with_options(executor="process", retry_max_attempts=3, retry_delay=0)
    def inner():
        return 1
    await inner()

ctx = flow.run(1)
print("top level of a module" in str(ctx.output), [e.type for e in ctx.events if "RETRY" in e.type])
"""
    assert run(home, body) == "True []\n"


def test_what_flux_injects_arrives(home: Path) -> None:
    body = """
@workflow
async def flow(ctx: ExecutionContext[int]):
    return await told(ctx.input)

print(flow.run(3).output)
"""
    assert run(home, body) == "(3, 'told', 1)\n"


def test_a_map_runs_in_several_processes_at_once(home: Path) -> None:
    body = """
@task.with_options(executor="process", timeout=20)
def meet(i):
    open(f"here-{os.getpid()}", "w").close()
    while len([name for name in os.listdir() if name.startswith("here-")]) < 4:
        pass
    return i

@workflow
async def flow(ctx: ExecutionContext[int]):
    return await meet.map(range(ctx.input))

print(flow.run(4).output)
"""
    assert run(home, body) == "[0, 1, 2, 3]\n"


def test_a_task_outside_a_workflow_has_its_process_too(home: Path) -> None:
    body = """
if __name__ == "__main__":
    value, pid = asyncio.run(double(4))
    print(value, pid == os.getpid())
"""
    assert run(home, body) == "8 False\n"


def test_progress_is_recorded_in_order_before_the_result(home: Path) -> None:
    body = """
@workflow
async def flow(ctx: ExecutionContext[int]):
    return [await telling(1), await telling(5)]

for event in flow.run(1).events[1:-1]:
    print(event.type, event.value if event.type != "TASK_STARTED" else "")
"""
    assert run(home, body).splitlines() == [
        "TASK_STARTED ",
        "TASK_PROGRESS {'done': 1}",
        "TASK_PROGRESS 2",
        "TASK_COMPLETED 1",
        "TASK_STARTED ",
        "TASK_PROGRESS {'done': 5}",
        "TASK_PROGRESS 6",
        "TASK_COMPLETED 5",
    ]
