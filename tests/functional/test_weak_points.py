"""What went wrong in the published system of this name; each was reproduced there, and must not come back here."""

import asyncio
import dataclasses
import math
import sys
import threading
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flux import ExecutionContext, ExecutionState, pause, task, workflow
from flux.errors import ExecutionConflictError, ExecutionTimeoutError, NonDeterminismError
from flux.output_storage import LocalFileStorage
from flux.secret_managers import SecretManager
from flux.serde.tracebacks import traceback_of
from flux.tasks import parallel, sleep, uuid4
from functional.kit import Kit, run_script, shape, times, types, whole


@task
async def echo(value: Any) -> Any:
    return value


# -- 1: errors with a constructor of their own


class Denied(Exception):
    def __init__(self, user: str, code: int) -> None:
        super().__init__(f"{user} was denied")
        self.user, self.code = user, code


class Strict(Exception):
    def __init__(self, *, reason: str) -> None:
        self.reason = reason
        super().__init__()

    def __str__(self) -> str:
        return f"strict: {self.reason}"


@pytest.mark.parametrize("make", [lambda: Denied("ann", 7), lambda: Strict(reason="rule")], ids=["args", "keyword"])
def test_an_error_with_its_own_constructor_never_makes_an_execution_unreadable(both: Kit, make: Any) -> None:
    @task
    async def denying() -> None:
        raise make()

    @workflow
    async def guarded(ctx: ExecutionContext[None]) -> Any:
        try:
            await denying()
        except (Denied, Strict) as error:
            await pause("look")
            return [str(error), type(error.inner_exception).__name__]  # type: ignore[union-attr]

    paused = both.run(guarded)
    again = both.stored(paused.execution_id)
    ctx = both.resume(guarded, paused.execution_id)

    assert whole(again) == whole(paused)
    assert ctx.output == [str(make()), type(make()).__name__]
    recorded = next(e.value for e in ctx.events if e.type == "TASK_FAILED")
    assert vars(make()).items() <= vars(recorded).items()


# -- 2: calls inside a task


def test_the_results_of_calls_inside_a_finished_task_answer_no_later_call(both: Kit) -> None:
    drawn: list[int] = []

    @task
    async def draw(x: int) -> int:
        drawn.append(x)
        return len(drawn)

    @task
    async def outer(x: int) -> int:
        return await draw(x)

    @workflow
    async def later(ctx: ExecutionContext[None]) -> Any:
        first = await outer(1)
        answer = await pause("between")
        return [first, answer, await draw(1), await outer(1)]

    paused = both.run(later)
    ctx = both.resume(later, paused.execution_id, "yes")

    assert ctx.output == [1, "yes", 2, 3]
    assert [e.call_id for e in ctx.events if e.type == "TASK_STARTED"] == ["1", "1/1", "2", "3", "4", "4/1"]


# -- 3: equal calls


@pytest.mark.parametrize("crash_at", [0.5, 1.5, 2.5])
def test_equal_calls_in_concurrent_branches_keep_their_own_results(kit: Kit, crash_at: float) -> None:
    """Two branches make equal calls whose results differ; a crash between them swaps nothing."""
    given: list[int] = []

    @task
    async def draw(x: int) -> int:
        number = len(given)
        given.append(number)
        await asyncio.sleep([3, 1, 1, 1][number % 4])
        return number

    @workflow
    async def branches(ctx: ExecutionContext[None]) -> Any:
        async def branch(name: str) -> Any:
            first = await draw(1)
            return [name, first, await draw(1)]

        return await asyncio.gather(branch("a"), branch("b"))

    kit.run_for(crash_at, branches.run_async(None, execution_id="e"))
    before = [(e.call_id, e.value) for e in kit.stored("e").events if e.type == "TASK_COMPLETED"]
    ctx = kit.run(branches, execution_id="e")

    results = {e.call_id: e.value for e in ctx.events if e.type == "TASK_COMPLETED"}
    assert dict(before).items() <= results.items()
    assert [[name, results[str(i + 1)]] for i, name in enumerate("ab")] == [part[:2] for part in ctx.output]
    assert kit.run(branches, execution_id="e").output == ctx.output
    assert len({part[1] for part in ctx.output}) == 2


# -- 4: what fallback and rollback are called with


@pytest.mark.parametrize("handler", ["fallback", "rollback"])
@pytest.mark.parametrize("injected", [[], ["secrets"], ["metadata"], ["secrets", "metadata"]], ids=str)
def test_fallback_and_rollback_get_the_arguments_of_the_task_and_nothing_else(
    both: Kit, monkeypatch: pytest.MonkeyPatch, handler: Any, injected: list[str]
) -> None:
    got: list[Any] = []
    monkeypatch.setenv("FLUX_SECRET_K", "value of the secret")

    def take(*args: Any, **kwargs: Any) -> int:
        got.append((args, kwargs))
        return 0

    options = {"secret_requests": ["K"] if "secrets" in injected else [], "metadata": "metadata" in injected}

    @task.with_options(**{handler: take}, **options)  # type: ignore[call-overload,misc]
    async def failing(a: int, *, b: int = 2, **others: Any) -> int:
        got.append(sorted(others))
        raise ValueError("no")

    @workflow
    async def calling(ctx: ExecutionContext[None]) -> Any:
        return await failing(1, b=3)

    ctx = both.run(calling)

    assert got == [sorted(injected), ((1,), {"b": 3})]
    assert ctx.has_succeeded == (handler == "fallback")


# -- 5: local files


def test_results_in_files_of_several_executions_are_apart_whatever_the_names_are(both: Kit, home: Path) -> None:
    storage = LocalFileStorage(home / "kept")

    @task.with_options(name="a/b", output_storage=storage)
    async def report(x: int) -> str:
        return f"of {x}"

    @workflow.with_options(name="monthly/report", output_storage=storage)
    async def reporting(ctx: ExecutionContext[int]) -> Any:
        return [await report(ctx.input), await report(ctx.input + 10), await pause("p")]

    for x in (1, 2):
        both.run(reporting, x, f"e{x}")
    contexts = [both.resume(reporting, f"e{x}", "yes") for x in (1, 2)]

    assert [storage.retrieve(ctx.output) for ctx in contexts] == [["of 1", "of 11", "yes"], ["of 2", "of 12", "yes"]]
    assert len(list((home / "kept").iterdir())) == 6


# -- 6: types


@dataclasses.dataclass
class Point:
    x: int
    tags: set[str]


VALUES: list[Any] = [
    datetime(2024, 1, 2, 3, 4, 5, 6, UTC),
    date(2024, 1, 2),
    timedelta(days=1, microseconds=1),
    (1, (2, 3)),
    {1, 2},
    frozenset({"a"}),
    b"\x00\xff",
    {1: "one", (2, 3): "pair", None: "none", "s": True},
    Point(1, {"t"}),
    Decimal("1.10"),
    UUID(int=5),
    Path("/a/b"),
    1 << 100,
    complex(1, 2),
    ExecutionState.PAUSED,
    -0.0,
    "ключ\x00 🗝",
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_come_back_as_the_types_that_they_were(both: Kit, value: Any) -> None:
    @workflow
    async def carrying(ctx: ExecutionContext[Any]) -> Any:
        before = await echo(ctx.input)
        answer = await pause("wait", output=value)
        return [ctx.input, before, answer]

    paused = both.run(carrying, value)
    ctx = both.resume(carrying, paused.execution_id, value)

    assert paused.events[-1].value["output"] == value
    for part in (*ctx.output, *both.stored(ctx.execution_id).output):
        assert part == value
        assert type(part) is type(value)
        assert repr(part) == repr(value)


# -- 7: NaN, and dict keys of different types


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {1: "a", "1": "b", None: math.nan}], ids=repr)
def test_nan_infinity_and_mixed_keys_are_values_like_others(both: Kit, value: Any) -> None:
    @workflow
    async def odd(ctx: ExecutionContext[Any]) -> Any:
        return await echo(ctx.input)

    ctx = both.run(odd, value)

    assert types(ctx) == ["WS", "TS", "TC", "WC"]
    assert repr(both.stored(ctx.execution_id).output) == repr(value)


# -- 8: a pause is no exception


def test_nothing_that_a_body_catches_swallows_a_pause(both: Kit) -> None:
    caught: list[BaseException] = []

    @workflow
    async def careful(ctx: ExecutionContext[None]) -> Any:
        try:
            return await pause("approve")
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                caught.append(error)
            raise
        finally:
            await echo("clean-up")

    paused = both.run(careful)
    ctx = both.resume(careful, paused.execution_id, "yes")

    assert paused.state is ExecutionState.PAUSED
    assert types(paused) == ["WS", "TS", "TP", "WP"]  # The clean-up did not run while it was unloaded.
    assert ctx.output == "yes"
    assert not caught


# -- 9: sleeps and crashes


def test_a_sleep_ends_when_it_would_have_ended_without_the_crash(kit: Kit) -> None:
    @workflow
    async def sleeping(ctx: ExecutionContext[None]) -> str:
        await sleep(9)
        return "done"

    kit.run_for(4, sleeping.run_async(None, execution_id="e"))
    kit.clock.seconds += 3
    ctx = kit.run(sleeping, execution_id="e")

    assert kit.clock.seconds == pytest.approx(9, abs=0.001)
    assert types(ctx) == ["WS", "TIMER_FIRED", "WC"]


def test_a_sleep_that_ended_while_nobody_was_there_ends_at_once(kit: Kit) -> None:
    @workflow
    async def sleeping(ctx: ExecutionContext[None]) -> str:
        await sleep(9)
        return "done"

    kit.run_for(4, sleeping.run_async(None, execution_id="e"))
    kit.clock.seconds += 100
    ctx = kit.run(sleeping, execution_id="e")

    assert ctx.output == "done"
    assert kit.clock.seconds == pytest.approx(104, abs=0.001)


def test_a_killed_execution_continues_after_its_last_finished_task(home: Path) -> None:
    program = """
        @task
        async def first():
            count("first")
            return os.getpid()

        @task
        async def second(pid):
            count("second")
            if once("died"):
                die()
            return pid != os.getpid()

        @workflow
        async def job(ctx: ExecutionContext[int]):
            return await second(await first())

        print(job.run(1, execution_id="e").output)
    """
    run_script(home, program, code=-9)
    assert run_script(home, program) == "True\n"

    assert (times(home, "first"), times(home, "second")) == (1, 2)
    assert run_script(home, program) == "True\n"  # Finished: returned unchanged.
    assert (times(home, "first"), times(home, "second")) == (1, 2)


# -- 10: what a task costs


def _calls_of_python(work: Any) -> int:
    counted = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted


@pytest.mark.parametrize("phase", ["live", "replay"])
def test_a_task_costs_the_same_however_long_the_history_is(kit: Kit, phase: str) -> None:
    """Counted in function calls, which do not depend on the machine."""

    @task.with_options(pure=True)
    async def tick(i: int) -> int:
        return i

    @workflow
    async def counting(ctx: ExecutionContext[int]) -> int:
        for i in range(ctx.input):
            await tick(i)
        await pause("end")
        return len(ctx.events)

    def cost(tasks: int) -> int:
        if phase == "live":
            return _calls_of_python(lambda: kit.run(counting, tasks))
        paused = kit.run(counting, tasks)
        return _calls_of_python(lambda: kit.resume(counting, paused.execution_id))

    cost(10)
    small, large = cost(100), cost(1000)
    per_task = (large - small) / 900

    assert per_task < 260
    assert large - cost(550) == pytest.approx(per_task * 450, rel=0.1)


# -- 11: sync tasks, and resuming through another workflow


def test_sync_tasks_run_beside_each_other_and_beside_the_loop() -> None:
    meeting, said = threading.Barrier(2, timeout=5), threading.Event()

    @task
    def meet() -> bool:
        meeting.wait()
        return said.wait(5)

    @task
    async def say() -> None:
        said.set()

    @workflow
    async def together(ctx: ExecutionContext[None]) -> Any:
        return await parallel(meet(), meet(), say())

    assert together.run().output == [True, True, None]


def test_a_sync_task_obeys_its_timeout() -> None:
    release = threading.Event()

    @task.with_options(timeout=0.02)
    def stuck() -> None:
        release.wait(10)

    @workflow
    async def waiting(ctx: ExecutionContext[None]) -> None:
        await stuck()

    ctx = waiting.run()
    release.set()

    assert isinstance(ctx.output, ExecutionTimeoutError)


def test_an_execution_is_continued_only_by_its_own_workflow(both: Kit) -> None:
    ran: list[str] = []

    @workflow
    async def mine(ctx: ExecutionContext[int]) -> Any:
        return await pause("p")

    @workflow
    async def other(ctx: ExecutionContext[int]) -> Any:
        ran.append("other")

    paused = both.run(mine, 1)
    before = whole(paused)

    with pytest.raises(ExecutionConflictError, match="belongs to the workflow 'mine', not to 'other'"):
        both.resume(other, paused.execution_id, "x")
    with pytest.raises(ExecutionConflictError, match="continue it through 'mine'"):
        both.run(other, execution_id=paused.execution_id)
    with pytest.raises(ExecutionConflictError):
        both.run(other, 1, paused.execution_id)

    assert whole(both.stored(paused.execution_id)) == before
    assert not ran
    assert both.resume(mine, paused.execution_id, "x").output == "x"


# -- 12: the first minute


def test_the_quick_start_runs_once_in_an_empty_directory_without_a_main_guard(home: Path) -> None:
    printed = run_script(
        home,
        """
        count("loaded")

        @task
        def hello(name: str):
            count("ran")
            return f"Hello {name}"

        @workflow
        async def greet(ctx: ExecutionContext[str]):
            return await hello(ctx.input)

        print(greet.run("World").output)
        """,
    )

    assert printed == "Hello World\n"
    assert (times(home, "loaded"), times(home, "ran")) == (1, 1)
    assert (home / ".flux" / "flux.db").exists()


# -- 13: errors that can be read


@pytest.mark.parametrize("error", [ValueError(), ValueError("why"), AssertionError(), KeyError("k")], ids=repr)
def test_the_text_of_a_failure_says_what_failed(both: Kit, error: Exception) -> None:
    @task
    async def failing() -> None:
        raise error

    @workflow
    async def calling(ctx: ExecutionContext[None]) -> None:
        await failing()

    text = str(both.run(calling).output)

    assert text not in {"", "None"}
    assert text in {str(error), type(error).__name__}


def _line_that_breaks() -> None:
    raise LookupError("deep inside")


@pytest.mark.parametrize("where", ["task", "sync task", "body"])
def test_the_traceback_of_a_failure_is_kept(both: Kit, where: str) -> None:
    @task
    async def failing() -> None:
        _line_that_breaks()

    @task
    def failing_in_thread() -> None:
        _line_that_breaks()

    @workflow
    async def calling(ctx: ExecutionContext[None]) -> None:
        if where == "body":
            _line_that_breaks()
        await (failing() if where == "task" else failing_in_thread())

    ctx = both.run(calling)
    error = both.stored(ctx.execution_id).output

    shown = traceback_of(error)
    assert "_line_that_breaks" in shown
    assert "deep inside" in shown
    assert Path(__file__).name in shown


# -- 15: secrets


def test_a_secret_costs_next_to_nothing_and_needs_no_key_set_by_hand(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read and each write took 0.45 seconds: these would take 45."""
    for name in ("FLUX_SECRET_KEYS", "FLUX_SECRET_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "configuration"))
    manager = SecretManager.current()
    manager.save("WARM", "up")

    began = time.perf_counter()
    for i in range(50):
        manager.save(f"K{i % 5}", f"value {i}")
        assert asyncio.run(manager.get([f"K{i % 5}"])) == {f"K{i % 5}": f"value {i}"}

    assert time.perf_counter() - began < 5
    assert manager.all() == ["K0", "K1", "K2", "K3", "K4", "WARM"]
    assert not any(path.is_relative_to(home / ".flux") for path in home.rglob("*keys*"))


# -- 16: changed code


@task
async def step(n: int) -> int:
    return n


@task
async def other_step(n: int) -> int:
    return n


def versions(**bodies: Any) -> dict[str, Any]:
    return {name: workflow.with_options(name="flow", version=name)(body) for name, body in bodies.items()}


async def _original(ctx: ExecutionContext[None]) -> Any:
    first = await step(1)
    answer = await pause("p")
    return [first, answer, await step(2)]


async def _same(ctx: ExecutionContext[None]) -> Any:
    one = await step(1)
    two = await pause("p")
    return [one, two, await step(2)]


async def _other_task(ctx: ExecutionContext[None]) -> Any:
    return [await other_step(1), await pause("p")]


async def _other_arguments(ctx: ExecutionContext[None]) -> Any:
    return [await step(100), await pause("p")]


async def _one_more(ctx: ExecutionContext[None]) -> Any:
    await other_step(0)
    return [await step(1), await pause("p")]


async def _one_less(ctx: ExecutionContext[None]) -> Any:
    return [await pause("p")]


async def _nothing(ctx: ExecutionContext[None]) -> Any:
    return []


async def _a_timer(ctx: ExecutionContext[None]) -> Any:
    await asyncio.sleep(1)
    return [await pause("p")]


async def _raises(ctx: ExecutionContext[None]) -> Any:
    raise ValueError("early")


CHANGED = [_other_task, _other_arguments, _one_more, _one_less, _nothing, _a_timer, _raises]


@pytest.mark.parametrize("changed", CHANGED, ids=lambda body: body.__name__)
def test_changed_code_is_told_and_nothing_is_lost(both: Kit, changed: Any) -> None:
    flow = versions(old=_original, new=changed)
    paused = both.run(flow["old"])

    with pytest.raises(NonDeterminismError, match="history has") as caught:
        both.resume(flow["new"], paused.execution_id, "yes")

    assert "nothing was lost" in str(caught.value)
    row = both.store.get(paused.execution_id)
    assert row is not None
    assert row.state is ExecutionState.SCHEDULED
    assert row.blocked_reason == str(caught.value)
    assert row.blocked_version == "new"
    assert shape(both.stored(paused.execution_id))[: len(paused.events)] == shape(paused)

    ctx = both.run(flow["old"], execution_id=paused.execution_id)
    assert ctx.output == [1, "yes", 2]


def test_code_that_decides_alike_is_the_same_code(both: Kit) -> None:
    """The control of the test above."""
    flow = versions(old=_original, new=_same)
    paused = both.run(flow["old"])

    assert both.resume(flow["new"], paused.execution_id, "yes").output == [1, "yes", 2]


def test_a_body_that_is_not_deterministic_is_found_out(both: Kit) -> None:
    runs: list[int] = []

    @workflow
    async def random_body(ctx: ExecutionContext[None]) -> Any:
        runs.append(1)
        await step(len(runs))
        await pause("p")

    if both.app.settings.replay_each_step:
        with pytest.raises(NonDeterminismError, match=r"step\(n=1\).*step\(n=2\)"):
            both.run(random_body)
        return
    paused = both.run(random_body)
    with pytest.raises(NonDeterminismError, match=r"step\(n=1\).*step\(n=2\)"):
        both.resume(random_body, paused.execution_id)


def test_recorded_chance_is_the_same_in_every_replay(both: Kit) -> None:
    @workflow
    async def chance(ctx: ExecutionContext[None]) -> Any:
        before = await uuid4()
        await pause("p")
        return before

    paused = both.run(chance)
    drawn = next(e.value for e in paused.events if e.type == "TASK_COMPLETED")

    assert both.resume(chance, paused.execution_id).output == drawn
    assert isinstance(drawn, UUID)
