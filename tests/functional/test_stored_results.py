"""Results that an output storage keeps: what the history holds, what callers get, and what a loss means."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, call, pause, task, workflow
from flux.engine.replay import divergence_of
from flux.errors import CorruptedDatabaseError, InvalidValueError, NotFoundError, StoreError
from flux.output_storage import InlineOutputStorage, LocalFileStorage, OutputStorage, OutputStorageReference
from flux.tasks import parallel, progress, wait_for_signal
from functional.kit import Kit, failure, plain, recorded_ids, run_script, shape, stored, times, types, whole


class Shelf(OutputStorage):
    """A storage as users write one: three plain methods, and values in memory."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.stored: list[str] = []
        self.broken: str = ""

    def store(self, reference_id: str, value: Any) -> OutputStorageReference:
        if self.broken == "store":
            raise ConnectionError("the shelf is away")
        self.stored.append(reference_id)
        self.values[reference_id] = value
        return OutputStorageReference("shelf", reference_id, {"n": len(self.stored)})

    def retrieve(self, reference: OutputStorageReference) -> Any:
        if self.broken == "retrieve":
            raise ConnectionError("the shelf is away")
        assert reference.storage_type == "shelf"
        return self.values[reference.reference_id]

    def delete(self, reference: OutputStorageReference) -> None:
        self.values.pop(reference.reference_id, None)


@pytest.fixture(params=[Shelf, InlineOutputStorage, LocalFileStorage], ids=lambda kind: kind.__name__)
def storage(home: Path, request: pytest.FixtureRequest) -> OutputStorage:
    """Each kind of storage."""
    return request.param()  # type: ignore[no-any-return]


def calling(function: Any, *arguments: Any) -> Any:
    """A workflow that calls one task."""

    @workflow
    async def caller(ctx: ExecutionContext[Any]) -> Any:
        return await function(*arguments)

    return caller


def checked(kit: Kit, ctx: Any) -> list[tuple[Any, ...]]:
    """The history, after it was compared with what a fresh app reads from the database."""
    assert whole(ctx) == whole(kit.stored(ctx.execution_id))

    return shape(ctx)


def references(ctx: Any) -> list[OutputStorageReference]:
    """What the history has in place of results."""
    return [e.value for e in ctx.events if e.type == "TASK_COMPLETED"]


# -- of tasks


def test_the_history_has_a_reference_and_the_caller_gets_the_value(both: Kit, storage: OutputStorage) -> None:
    got: list[Any] = []

    @task.with_options(output_storage=storage)
    async def report(x: int) -> Any:
        return {"pages": (x, {x})}

    @workflow
    async def reporting(ctx: ExecutionContext[int]) -> int:
        got.append(await report(ctx.input))
        return 1

    ctx = both.run(reporting, 3, "e")

    assert got
    assert all(value == {"pages": (3, {3})} for value in got)
    (reference,) = references(ctx)
    assert isinstance(reference, OutputStorageReference)
    assert storage.retrieve(reference) == {"pages": (3, {3})}
    assert checked(both, ctx) == [
        ("WS", "reporting", 3),
        ("TS", "report", {"x": 3}),
        ("TC", "report", reference),
        ("WC", "reporting", 1),
    ]


def test_every_call_has_a_reference_of_its_own_that_names_the_execution(both: Kit) -> None:
    shelf = Shelf()

    @task.with_options(output_storage=shelf)
    async def report(x: int) -> int:
        return x

    @task
    async def outer() -> int:
        return await report(9)

    @workflow
    async def reporting(ctx: ExecutionContext[None]) -> Any:
        return [await report(1), await parallel(report(1), report(1)), await report.map([1, 2]), await outer()]

    first, second = both.run(reporting, None, "a"), both.run(reporting, None, "b")

    assert first.output == second.output == [1, [1, 1], [1, 2], 9]
    ids = [each.reference_id for each in references(first) if isinstance(each, OutputStorageReference)]
    assert len(ids) == 6
    assert all(each.startswith("report_a_") for each in ids)
    assert len(set(shelf.stored)) == 12


def test_the_value_is_there_after_a_pause_and_is_not_stored_again(both: Kit, storage: OutputStorage) -> None:
    ran: list[int] = []

    @task.with_options(output_storage=storage)
    async def report() -> str:
        ran.append(1)
        return "kept"

    @workflow
    async def reporting(ctx: ExecutionContext[None]) -> Any:
        return [await report(), await pause("p")]

    both.run(reporting, None, "e")

    assert both.resume(reporting, "e", 1).output == ["kept", 1]
    assert ran == [1]


def test_the_caller_gets_a_value_of_its_own(both: Kit, storage: OutputStorage) -> None:
    @task.with_options(output_storage=LocalFileStorage())
    async def report() -> list[int]:
        return [1]

    @workflow
    async def changing(ctx: ExecutionContext[None]) -> Any:
        (await report()).append(2)
        await pause("p")
        return await report()

    both.run(changing, None, "e")

    assert both.resume(changing, "e", 1).output == [1]


def test_a_retried_task_replaces_what_it_had_stored(kit: Kit) -> None:
    shelf = Shelf()

    @task.with_options(output_storage=shelf, retry_max_attempts=2, retry_delay=0)
    async def report() -> int:
        if not shelf.broken and not shelf.stored:
            shelf.broken = "store"
        elif shelf.broken:
            shelf.broken = ""
        return len(shelf.stored)

    ctx = kit.run(calling(report), None, "e")

    assert ctx.output == 0
    assert types(ctx) == ["WS", "TS", "RETRY_FAILED", "RETRY_STARTED", "RETRY_COMPLETED", "TC", "WC"]
    assert shelf.stored == ["report_e_1"]
    completed = next(e.value for e in ctx.events if e.type == "TASK_RETRY_COMPLETED")
    assert completed["output"] == references(ctx)[0]


def test_a_task_that_a_crash_repeats_stores_under_the_same_id(kit: Kit) -> None:
    shelf = Shelf()

    @task.with_options(output_storage=shelf)
    async def report() -> int:
        await asyncio.sleep(10)
        return 1

    kit.run_for(5, calling(report).run_async(None, execution_id="e"))
    ctx = kit.run(calling(report), execution_id="e")

    assert ctx.output == 1
    assert shelf.stored == ["report_e_1"]


@pytest.mark.parametrize("how", ["in a body", "outside"])
def test_the_result_of_a_fallback_is_kept_like_the_tasks_own(both: Kit, storage: OutputStorage, how: str) -> None:
    async def instead(x: int) -> str:
        return f"instead {x}"

    @task.with_options(output_storage=storage, fallback=instead)
    async def report(x: int) -> str:
        raise ValueError(x)

    if how == "outside":
        assert asyncio.run(report(1)) == "instead 1"
        return
    ctx = both.run(calling(report, 1), None, "e")

    assert ctx.output == "instead 1"
    (reference,) = references(ctx)
    assert storage.retrieve(reference) == "instead 1"
    assert checked(both, ctx)[1:] == [
        ("TS", "report", {"x": 1}),
        ("FALLBACK_STARTED", "report", {"x": 1}),
        ("FALLBACK_COMPLETED", "report", reference),
        ("TC", "report", reference),
        ("WC", "caller", "instead 1"),
    ]


def test_the_result_of_a_fallback_is_there_after_a_crash(kit: Kit) -> None:
    shelf = Shelf()

    async def instead() -> str:
        return "instead"

    @task.with_options(output_storage=shelf, fallback=instead)
    async def report() -> str:
        raise ValueError("no")

    @workflow
    async def reporting(ctx: ExecutionContext[None]) -> Any:
        result = await report()
        await asyncio.sleep(8)
        return result

    kit.run_for(5, reporting.run_async(None, execution_id="e"))

    assert kit.run(reporting, execution_id="e").output == "instead"
    assert shelf.stored == ["report_e_1"]


def test_a_cached_result_is_retrieved_too(both: Kit, storage: OutputStorage) -> None:
    ran: list[int] = []

    @task.with_options(output_storage=storage, cache=True)
    async def report(x: int) -> str:
        ran.append(x)
        return f"kept {x}"

    assert both.run(calling(report, 1)).output == "kept 1"
    assert both.run(calling(report, 1)).output == "kept 1"
    assert ran == [1]


def test_outside_a_workflow_the_value_is_stored_and_returned(storage: OutputStorage) -> None:
    @task.with_options(output_storage=storage)
    async def report(x: int) -> Any:
        return (x, {x})

    assert asyncio.run(report(1)) == (1, {1})


def test_a_rollback_stores_nothing(both: Kit) -> None:
    shelf = Shelf()

    @task.with_options(output_storage=shelf, rollback=lambda: "undone")
    async def report() -> str:
        raise ValueError("no")

    ctx = both.run(calling(report))

    assert ctx.output == failure(ValueError, "no")
    assert shelf.stored == []


# -- of workflows


def test_a_workflow_shows_the_reference_to_its_result(both: Kit, storage: OutputStorage) -> None:
    @workflow.with_options(name="monthly report", output_storage=storage)
    async def reporting(ctx: ExecutionContext[int]) -> Any:
        return {"pages": ctx.input}

    ctx = both.run(reporting, 3, "e")

    assert isinstance(ctx.output, OutputStorageReference)
    assert ctx.output.reference_id == "monthly report_e"
    assert storage.retrieve(ctx.output) == {"pages": 3}
    assert checked(both, ctx) == [("WS", "monthly report", 3), ("WC", "monthly report", ctx.output)]
    assert both.run(reporting, execution_id="e").output == ctx.output


def test_a_workflow_that_fails_stores_nothing(both: Kit) -> None:
    shelf = Shelf()

    @workflow.with_options(output_storage=shelf)
    async def failing(ctx: ExecutionContext[None]) -> Any:
        raise ValueError("no")

    ctx = both.run(failing)

    assert ctx.output == plain(ValueError, "no")
    assert shelf.stored == []


@pytest.mark.parametrize("by", ["object", "name"])
def test_a_parent_gets_the_value_of_a_child_that_keeps_its_result(both: Kit, storage: OutputStorage, by: str) -> None:
    @workflow.with_options(output_storage=storage)
    async def child(ctx: ExecutionContext[int]) -> Any:
        return {"pages": ctx.input}

    @workflow
    async def parent(ctx: ExecutionContext[int]) -> Any:
        return [await (child(ctx.input) if by == "object" else call("child", ctx.input)), await pause("p")]

    both.run(parent, 3, "e")
    ctx = both.resume(parent, "e", 1)

    assert ctx.output == [{"pages": 3}, 1]
    assert isinstance(references(ctx)[0], OutputStorageReference)


# -- names


def test_no_name_leads_out_of_the_folder_and_no_two_share_a_file(home: Path, both: Kit) -> None:
    names = ["../up", "/etc/x", "a/b", "a_b", "..", ".", "c:\\x", "nul\0", "a" * 300, "ünïcode", "up.value", "%2e%2e"]
    storage = LocalFileStorage(home / "kept")

    @task.with_options(output_storage=storage, name="{name}")
    async def report(name: str) -> str:
        return f"of {name}"

    @workflow.with_options(name="../../out", output_storage=storage)
    async def reporting(ctx: ExecutionContext[list[str]]) -> Any:
        return await report.map(ctx.input)

    before = {path for path in home.rglob("*") if path.is_file()}
    ctx = both.run(reporting, names, "e")

    assert storage.retrieve(ctx.output) == [f"of {name}" for name in names]
    written = {path for path in home.rglob("*") if path.is_file()} - before
    kept = {path for path in written if path.parent == home / "kept"}
    assert len(kept) == len(names) + 1
    database = {path for path in written if path.name.startswith("virtual.db") or path.parent.name == "workers"}
    assert written == kept | database
    assert not (home.parent / "out").exists()


# -- sizes


@pytest.mark.parametrize("size", [255 * 1024, 257 * 1024, 3 * 1024 * 1024])
def test_values_of_any_size_come_back_with_and_without_a_storage(both: Kit, size: int) -> None:
    """What is over 256 KiB goes to a file beside the database by itself; a storage makes no difference to that."""
    kept = LocalFileStorage()

    @task
    async def large(n: int) -> str:
        return "x" * n

    @workflow
    async def carrying(ctx: ExecutionContext[str]) -> Any:
        mine = await large(size)
        his = await large.with_options(output_storage=kept)(size)
        inline = await large.with_options(output_storage=InlineOutputStorage())(size)
        await pause("p", output=mine)
        return [ctx.input, mine, his, inline]

    both.run(carrying, "i" * size, "e")
    ctx = both.resume(carrying, "e", 1)

    assert [len(each) for each in ctx.output] == [size] * 4
    assert whole(ctx) == whole(both.stored("e"))


def test_whatever_reaches_an_execution_may_be_large(both: Kit) -> None:
    """Inputs of children, answers, signals, progress and cached results go to files as results do."""

    def text(letter: str) -> str:
        return letter * 300_000

    @task.with_options(cache=True)
    async def large(letter: str) -> str:
        progress(text("p"))
        return text(letter)

    @workflow
    async def child(ctx: ExecutionContext[str]) -> str:
        return ctx.input

    @workflow
    async def hearing(ctx: ExecutionContext[None]) -> Any:
        own = [await child(text("c")), await large("r"), await large("r")]
        return [*own, await pause("p", output=text("o")), await wait_for_signal("s")]

    paused = both.run(hearing, None, "e")
    both.app.send_signal("e", "s", text("s"))
    ctx = both.resume(hearing, "e", text("a"))

    assert paused.events[-1].value["output"] == text("o")
    assert ctx.output == [text(letter) for letter in "crras"]
    assert [e.value for e in ctx.events if e.type == "TASK_PROGRESS"] == [text("p")]
    assert whole(ctx) == whole(both.stored("e"))


# -- losses


@dataclass
class Away:
    """A value of a class that is not always loaded."""

    n: int


@pytest.mark.parametrize("which", ["input", "result"])
def test_a_value_whose_class_is_not_loaded_blocks_the_execution_until_it_is_asked_for_again(
    both: Kit, which: str, monkeypatch: Any
) -> None:
    """A worker that tried again at once would do so for ever."""
    module = ModuleType("away")
    monkeypatch.setitem(sys.modules, "away", module)
    monkeypatch.setattr(Away, "__module__", "away")
    module.Away = Away

    @task
    async def make(n: int) -> Away:
        return Away(n)

    @workflow
    async def holding(ctx: ExecutionContext[Any]) -> Any:
        made = ctx.input if which == "input" else await make(7)
        return [made.n, await pause("p")]

    both.run(holding, Away(7) if which == "input" else None, "e")
    monkeypatch.delitem(sys.modules, "away")
    with pytest.raises(NotFoundError, match="away:Away is in a stored value, but not loaded"):
        both.resume(holding, "e", 1)
    row = both.store.get("e")
    assert row is not None and row.state is ExecutionState.SCHEDULED
    assert "away:Away is in a stored value" in (row.blocked_reason or "")
    assert str(divergence_of(holding.definition, both.store.events("e"))) == row.blocked_reason

    monkeypatch.setitem(sys.modules, "away", module)
    assert both.run(holding, execution_id="e").output == [7, 1]


def test_a_file_that_is_gone_is_an_error_that_names_it_and_the_execution_waits_for_it(both: Kit, home: Path) -> None:
    """Nothing about the execution is known to be wrong, so it is not failed: it goes on when the file is back."""
    storage = LocalFileStorage(home / "kept")

    @task.with_options(output_storage=storage)
    async def report() -> str:
        return "kept"

    @workflow
    async def reporting(ctx: ExecutionContext[None]) -> Any:
        return [await report(), await pause("p")]

    both.run(reporting, None, "e")
    (file,) = (home / "kept").iterdir()
    file.rename(home / "away")

    with pytest.raises(NotFoundError, match=r"the output 'report_e_1' is not in .*\.value: the file was deleted or"):
        both.resume(reporting, "e", "yes")
    row = both.store.get("e")
    assert row is not None
    assert row.state is ExecutionState.SCHEDULED
    assert "the file was deleted" in (row.blocked_reason or "")  # No worker tries that again and again.
    assert "WORKFLOW_FAILED" not in types(both.stored("e"))

    (home / "away").rename(file)
    assert both.run(reporting, execution_id="e").output == ["kept", "yes"]


def test_a_file_that_was_changed_is_not_served(both: Kit, home: Path) -> None:
    storage = LocalFileStorage(home / "kept")

    @task.with_options(output_storage=storage)
    async def report() -> str:
        return "kept"

    @workflow
    async def reporting(ctx: ExecutionContext[None]) -> Any:
        return [await report(), await pause("p")]

    both.run(reporting, None, "e")
    (file,) = (home / "kept").iterdir()
    file.write_bytes(file.read_bytes().replace(b"kept", b"lost"))

    with pytest.raises(CorruptedDatabaseError, match="is not what was stored"):
        both.resume(reporting, "e", "yes")


@pytest.mark.parametrize("where", ["task", "nested", "child"])
def test_a_storage_that_cannot_be_read_ends_no_execution(both: Kit, where: str) -> None:
    shelf = Shelf()

    @task.with_options(output_storage=shelf)
    async def report() -> str:
        return "kept"

    @task
    async def outer() -> Any:
        return [await report(), await pause("inside")]

    @workflow.with_options(output_storage=shelf)
    async def child(ctx: ExecutionContext[None]) -> str:
        return "kept"

    @workflow
    async def reporting(ctx: ExecutionContext[None]) -> Any:
        if where == "nested":
            return await outer()
        return [await (report() if where == "task" else child()), await pause("p")]

    both.run(reporting, None, "e")
    shelf.broken = "retrieve"
    if where == "nested":  # The task meets it like any error.
        ctx = both.resume(reporting, "e", "yes")
        assert isinstance(ctx.output, ConnectionError)
        return
    with pytest.raises(ConnectionError, match="the shelf is away"):
        both.resume(reporting, "e", "yes")
    shelf.broken = ""

    assert both.run(reporting, execution_id="e").output == ["kept", "yes"]


@pytest.mark.parametrize("of", ["task", "workflow"])
def test_a_storage_that_cannot_be_written_fails_what_it_should_keep(both: Kit, of: str) -> None:
    shelf = Shelf()
    shelf.broken = "store"

    @task.with_options(output_storage=shelf)
    async def report() -> str:
        return "kept"

    @workflow
    async def caller(ctx: ExecutionContext[None]) -> Any:
        return await report() if of == "task" else "kept"

    ctx = both.run(caller if of == "task" else caller.with_options(output_storage=shelf))

    assert ctx.has_failed
    assert isinstance(ctx.output, ConnectionError)
    assert str(ctx.output) == "the shelf is away"


def test_a_folder_that_cannot_be_written_is_said(both: Kit, home: Path) -> None:
    (home / "kept").write_text("a file, not a folder")

    @task.with_options(output_storage=LocalFileStorage(home / "kept"))
    async def report() -> str:
        return "kept"

    ctx = both.run(calling(report))

    assert isinstance(ctx.output, StoreError)
    assert "the output 'report_" in str(ctx.output)


def test_a_value_that_cannot_be_recorded_cannot_be_stored_either(both: Kit, home: Path) -> None:
    @task.with_options(output_storage=LocalFileStorage(home / "kept"))
    async def report() -> Any:
        return [object()]

    ctx = both.run(calling(report))

    assert isinstance(ctx.output, InvalidValueError)
    assert "value[0]" in str(ctx.output)
    assert not (home / "kept").exists()


def test_a_storage_that_gives_no_reference_is_told(both: Kit) -> None:
    class Careless(Shelf):
        def store(self, reference_id: str, value: Any) -> Any:
            super().store(reference_id, value)

    @task.with_options(output_storage=Careless(), retry_max_attempts=3)
    async def report() -> str:
        return "kept"

    @workflow.with_options(output_storage=Careless())
    async def reporting(ctx: ExecutionContext[None]) -> str:
        return "kept"

    for flow in (calling(report), reporting):
        ctx = both.run(flow)
        assert isinstance(ctx.output, InvalidValueError)
        assert "returned None: it returns an OutputStorageReference" in str(ctx.output)
        assert "RETRY_STARTED" not in types(ctx)


def test_a_task_may_be_given_a_storage_while_its_executions_are_under_way(both: Kit) -> None:
    """What was recorded before is the value itself, and stays so."""

    def version(storage: OutputStorage | None) -> Any:
        @task.with_options(name="report", output_storage=storage)
        async def report(x: int) -> str:
            return f"of {x}"

        @workflow.with_options(name="reporting", version="1")
        async def reporting(ctx: ExecutionContext[None]) -> Any:
            return [await report(1), await pause("p"), await report(2)]

        return reporting

    both.run(version(None), None, "e")
    ctx = both.resume(version(Shelf()), "e", "yes")

    assert ctx.output == ["of 1", "yes", "of 2"]


@pytest.mark.parametrize("bad", ["a/folder", 5, object(), LocalFileStorage], ids=lambda bad: type(bad).__name__)
@pytest.mark.parametrize("on", [task, workflow], ids=["task", "workflow"])
def test_what_is_no_storage_is_refused_at_once(on: Any, bad: Any) -> None:
    async def function(ctx: Any) -> None:
        pass

    with pytest.raises(InvalidValueError, match=r"an object with store\(\) and retrieve\(\)"):
        on.with_options(output_storage=bad)(function)


# -- as users meet it


def test_results_survive_kill_9(home: Path) -> None:
    program = """
        from flux.output_storage import LocalFileStorage

        storage = LocalFileStorage("kept")

        @task.with_options(output_storage=storage)
        def report():
            count("report")
            return {"pages": (1, 2)}

        @task
        def publish(pages):
            if once("died"):
                die()
            return pages

        @workflow.with_options(output_storage=storage)
        async def job(ctx: ExecutionContext[int]):
            return await publish((await report())["pages"])

        ctx = job.run(1, execution_id="e")
        print(ctx.output.reference_id, storage.retrieve(ctx.output))
    """
    run_script(home, program, code=-9)

    assert run_script(home, program) == "job_e (1, 2)\n"
    assert times(home, "report") == 1
    assert recorded_ids() == ["e"]
    assert types(stored("e")) == ["WS", "TS", "TC", "TS", "TC", "WC"]
