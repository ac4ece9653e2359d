"""Programs that nobody thought of: trees of calls, tasks, children, pauses and signals, which a body or a task runs.

What a program gives is known without running it (`expected`), so it needs no run without a crash to compare with.
"""

import asyncio
from typing import Any

from hypothesis import strategies as st

from flux import pause, task, workflow
from flux.tasks import continue_as_new, wait_for_signal
from flux.workflow import Workflow
from support.story import Context, act
from support.world import World, ask, compute, fail, flaky, work

Program = tuple[Any, ...]

LEAVES = [("work",), ("ask",), ("caught",), ("pure",), ("pause",)]
SEVERAL = ("sequence", "gather", "group", "as_completed")
TASKS = ("plain", "retried", "falling", "undone")

leaves = st.one_of(st.sampled_from(LEAVES), st.tuples(st.just("flaky"), st.integers(0, 4)))


def _in_a_task(inner: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(st.sampled_from(SEVERAL), several),
        st.tuples(st.just("task"), st.sampled_from(TASKS), inner),
        st.tuples(st.just("timeout"), st.integers(1, 9), inner),
    )


def _in_a_body(inner: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(st.sampled_from(SEVERAL), several),
        st.tuples(st.just("task"), st.sampled_from(TASKS), in_tasks),
        st.tuples(st.sampled_from(["child", "anew"]), inner),
        st.tuples(st.just("timeout"), st.integers(1, 9), inner),
        st.just(("signal",)),
    )


in_tasks = st.recursive(leaves, _in_a_task, max_leaves=5)
programs = st.recursive(leaves | st.just(("signal",)), _in_a_body, max_leaves=7)


def gives_up(program: Any) -> bool:
    """Whether it gives calls up after a time."""
    return isinstance(program, tuple | list) and (program[:1] == ("timeout",) or any(map(gives_up, program)))


# -- what it gives


def expected(program: Program, path: str = "p") -> Any:
    """What must come of a program."""
    match program:
        case ("work" | "ask" | "pause",) | ("sleep", _):
            return path
        case ("caught",):
            return ["failed", path]
        case ("pure",):
            return len(path) ** 2
        case ("flaky", failures):
            return path if failures < 4 else ["failed", path]
        case ("signal",):
            return ["sent", path]
        case ("task", "plain" | "retried", inner):
            return expected(inner, f"{path}t")
        case ("task", "falling", inner):
            return ["instead", expected(inner, f"{path}f")]
        case ("task", "undone", _):
            return ["undone", path]
        case ("child" | "anew", inner):
            return expected(inner, f"{path}c")
        case ("timeout", *_):
            return ["timeout", path]
        case (_, several):
            return [expected(inner, f"{path}{i}") for i, inner in enumerate(several)]
    raise AssertionError(program)


# -- running it


async def run(program: Program, path: str = "p") -> Any:
    """Run a program, in a body or in a task."""
    kind, *rest = program
    return await _RUN[kind](path, *rest)


async def _work(path: str) -> Any:
    return await work(path)


async def _ask(path: str) -> Any:
    return await ask(path)


async def _pause(path: str) -> Any:
    return await pause(path)


async def _pure(path: str) -> Any:
    return await compute(len(path))


async def _caught(path: str) -> Any:
    try:
        return await fail(path)
    except ValueError:
        return ["failed", path]


async def _flaky(path: str, failures: int) -> Any:
    try:
        return await flaky(path, failures)
    except OSError:
        return ["failed", path]


async def _signal(path: str) -> Any:
    await send(path)
    return await wait_for_signal(path)


async def _sleep(path: str, seconds: float) -> Any:
    await asyncio.sleep(seconds)
    return path


async def _sequence(path: str, several: list[Program]) -> Any:
    return [await run(inner, f"{path}{i}") for i, inner in enumerate(several)]


async def _gather(path: str, several: list[Program]) -> Any:
    return await asyncio.gather(*(run(inner, f"{path}{i}") for i, inner in enumerate(several)))


async def _group(path: str, several: list[Program]) -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(inner, f"{path}{i}")) for i, inner in enumerate(several)]
    return [done.result() for done in tasks]


async def _as_completed(path: str, several: list[Program]) -> Any:
    async def numbered(i: int, inner: Program) -> Any:
        return i, await run(inner, f"{path}{i}")

    begun = [asyncio.ensure_future(numbered(i, inner)) for i, inner in enumerate(several)]  # In order, also in a task.
    found = [await each for each in asyncio.as_completed(begun)]
    return [value for _, value in sorted(found, key=lambda pair: pair[0])]


async def _task(path: str, kind: str, inner: Program) -> Any:
    try:
        return await _TASKS[kind](inner, path)
    except LookupError:
        return ["undone", path]


async def _child(path: str, inner: Program) -> Any:
    return await child((inner, f"{path}c", 1))


async def _anew(path: str, inner: Program) -> Any:
    return await child((inner, f"{path}c", 2))


async def _timeout(path: str, seconds: int, inner: Program) -> Any:
    """Whatever comes of the inner program is given up, or has ended."""
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(run(inner, path), work(f"{path} for long", 100_000))
    except TimeoutError:
        return ["timeout", path]


_RUN: dict[str, Any] = {
    "work": _work,
    "ask": _ask,
    "pause": _pause,
    "pure": _pure,
    "caught": _caught,
    "flaky": _flaky,
    "signal": _signal,
    "sleep": _sleep,
    "sequence": _sequence,
    "gather": _gather,
    "group": _group,
    "as_completed": _as_completed,
    "task": _task,
    "child": _child,
    "anew": _anew,
    "timeout": _timeout,
}


@task
async def send(path: str) -> Any:
    place, _ = World.current.act(path)
    World.current.send(place, path, ["sent", path])  # type: ignore[attr-defined]


@task
async def plain(program: Program, path: str) -> Any:
    act(path)
    return await run(program, f"{path}t")


@task.with_options(retry_max_attempts=1, retry_delay=1)
async def retried(program: Program, path: str) -> Any:
    _, attempt = World.current.act(path)
    found = await run(program, f"{path}t")
    if not attempt:
        raise OSError(path)
    return found


async def _run_instead(program: Program, path: str) -> Any:
    act(path)
    return ["instead", await run(program, f"{path}f")]


@task.with_options(fallback=_run_instead)
async def falling(program: Program, path: str) -> Any:
    act(path)
    raise OSError(await run(program, f"{path}t"))


async def _run_to_undo(program: Program, path: str) -> Any:
    act(path)
    return await run(program, f"{path}u")


@task.with_options(rollback=_run_to_undo)
async def undone(program: Program, path: str) -> Any:
    act(path)
    raise LookupError(await run(program, f"{path}t"))


_TASKS: dict[str, Any] = {"plain": plain, "retried": retried, "falling": falling, "undone": undone}


@workflow.with_options(name="child_of_a_program", version="1")
async def child(ctx: Context) -> Any:
    program, path, generations = ctx.input
    found = await run(program, path)
    if generations > 1:
        await continue_as_new((program, path, generations - 1))
    return found


def workflow_of(program: Program, *, cleans_up: bool) -> Workflow[Any, Any]:
    """A program as a body; when it is cancelled it may clean up by running itself again."""

    @workflow.with_options(name="program", version="1")
    async def body(ctx: Context) -> Any:
        try:
            return await run(program)
        except asyncio.CancelledError:
            if cleans_up:
                await run(program, "clean")
            raise

    return body
