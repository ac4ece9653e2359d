"""What tasks print and log is kept, each line where it belongs, bounded, without its secrets, and never in the way."""

import asyncio
import io
import logging
import os
import sys
import threading

import pytest

from flux import ExecutionContext, task, telemetry, workflow
from flux.errors import StoreError
from flux.observability import lines as lines_module
from flux.observability import taps

log = logging.getLogger("shop")
SECRET = "correct-horse-battery"  # noqa: S105


def said(app, execution_id):
    app._lines.flush()
    return [
        (each.call_id, each.task, each.stream, each.text)
        for each in app.catalogue.lines(execution_id, after=0, limit=10**6)
    ]


def run(body):
    """Run a task around a function, as the only call of a workflow; gives the execution's id."""

    @task
    async def speak() -> None:
        result = body()
        if result is not None:
            await result

    @workflow
    async def speaking(ctx: ExecutionContext) -> None:
        await speak()

    ctx = speaking.run()
    assert ctx.has_succeeded, ctx.output
    return ctx.execution_id


# -- what is kept


def test_what_a_task_prints_and_logs_is_kept_and_goes_where_it_went(make_app, capsys, caplog):
    app = make_app(keep_output=True)

    def body():
        print("one", "two")
        print("three", file=sys.stderr)
        sys.stdout.writelines(["four\n", "five\n"])
        log.warning("six %d", 6)

    found = said(app, run(body))

    assert found == [
        ("1", "speak", "stdout", "one two"),
        ("1", "speak", "stderr", "three"),
        ("1", "speak", "stdout", "four"),
        ("1", "speak", "stdout", "five"),
        ("1", "speak", "WARNING", "six 6"),
    ]
    assert capsys.readouterr() == ("one two\nfour\nfive\n", "three\n")
    assert caplog.messages == ["six 6"]


def test_tasks_in_parallel_and_in_threads_do_not_mix_their_lines(app):
    @task
    async def chat(n: int) -> None:
        for turn in range(3):
            print(n, end="")
            await asyncio.sleep(0)
            await asyncio.gather(asyncio.to_thread(print, f":{turn}", end=""))
            print()

    @task
    def write(n: int) -> None:
        for turn in range(3):
            print(f"{n}:{turn}", file=sys.stderr)

    @workflow
    async def chatting(ctx: ExecutionContext) -> None:
        await asyncio.gather(*(chat(n) for n in range(8)), *(write(n) for n in range(8)))

    found = said(app, chatting.run().execution_id)

    for n in range(8):
        assert [text for call, *_, text in found if call == str(n + 1)] == [f"{n}:0", f"{n}:1", f"{n}:2"]
        assert [text for call, *_, text in found if call == str(n + 9)] == [f"{n}:0", f"{n}:1", f"{n}:2"]


def test_a_record_is_kept_once_whatever_handlers_print_it(app):
    handler = logging.StreamHandler(sys.stderr)
    quiet = logging.getLogger("shop.quiet")
    quiet.propagate, quiet.handlers = False, [handler]
    try:
        found = said(app, run(lambda: quiet.error("once")))
    finally:
        quiet.propagate, quiet.handlers = True, []

    assert [each[2:] for each in found] == [("ERROR", "once")]


def test_a_record_with_several_lines_cannot_pass_for_another_record(app):
    found = said(app, run(lambda: log.warning("paid\nCRITICAL all is lost")))

    assert [each[2:] for each in found] == [("WARNING", "paid"), ("WARNING", "CRITICAL all is lost")]


def test_a_traceback_is_kept_with_its_record(app):
    def body():
        try:
            raise ValueError("no stock")
        except ValueError:
            log.exception("not sold")

    found = said(app, run(body))

    assert found[0][2:] == ("ERROR", "not sold")
    assert found[-1][2:] == ("ERROR", "ValueError: no stock")


def test_a_record_that_cannot_be_formatted_harms_no_task(app, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)

    assert said(app, run(lambda: log.warning("%d", "x")))[0][2:] == ("WARNING", "%d")


def test_a_line_without_an_end_is_kept_when_its_task_is_over(app):
    assert [each[3] for each in said(app, run(lambda: print("half", end="")))] == ["half"]


def test_what_a_body_prints_is_not_kept(app):
    @workflow
    async def loud(ctx: ExecutionContext) -> None:
        print("decided")

    @task
    async def delegate() -> None:
        await loud.run_async()

    @workflow
    async def delegating(ctx: ExecutionContext) -> None:
        await delegate()

    assert said(app, loud.run().execution_id) == []
    parent = delegating.run()
    assert parent.has_succeeded, parent.output
    assert [said(app, row.execution_id) for row in app.store.list()] == [[], [], []]


def test_without_the_setting_a_script_is_left_alone(make_app):
    app = make_app()
    factory = logging.getLogRecordFactory()
    execution_id = run(lambda: print("x"))

    assert app._lines is None
    assert logging.getLogRecordFactory() is factory
    assert "write" not in sys.stdout.__dict__
    assert app.catalogue.lines(execution_id, after=0, limit=10) == []


def test_two_databases_of_a_process_keep_their_own_lines_even_of_equal_ids(make_app):
    @task
    async def speak(text: str) -> None:
        print(text)

    @workflow
    async def speaking(ctx: ExecutionContext[str]) -> None:
        await speak(ctx.input)

    one = make_app("one", keep_output=True)
    speaking.run("in one", execution_id="same")
    other = make_app("other", keep_output=True)
    speaking.run("in other", execution_id="same")

    assert [each[3] for each in said(one, "same")] == ["in one"]
    assert [each[3] for each in said(other, "same")] == ["in other"]


# -- secrets


def test_secrets_of_a_task_are_covered_in_what_it_prints_and_logs(app, caplog):
    app.secrets.save("SHOP", SECRET)

    @task.with_options(secret_requests=["SHOP"])
    async def sell(secrets: dict[str, str]) -> None:
        print("with", secrets["SHOP"][:10], end="")
        print(secrets["SHOP"][10:])
        try:
            raise ValueError(secrets["SHOP"])
        except ValueError:
            log.exception("%s", secrets["SHOP"])

    @workflow
    async def selling(ctx: ExecutionContext) -> None:
        await sell()

    found = said(app, selling.run().execution_id)

    assert found[0][3] == "with [secret SHOP]"
    assert found[1][3] == "[secret SHOP]"
    assert found[-1][3] == "ValueError: [secret SHOP]"
    assert SECRET not in repr(found)
    assert SECRET not in caplog.text


# -- bounds


def test_a_long_line_is_cut(app, monkeypatch):
    found = said(app, run(lambda: print("é" * 100_000, "lost")))

    assert len(found[0][3].encode()) <= 8192
    assert found[0][3].endswith("é…")
    assert [each[3] for each in said(app, run(lambda: print("é" * 4096)))] == ["é" * 4096]


def test_a_line_that_never_ends_takes_bounded_memory(app):
    def body():
        for _ in range(1000):
            print("x" * 1000, end="")
        assert max(map(len, app._lines._begun.values())) <= 8193

    assert len(said(app, run(body))[0][3].encode()) <= 8192


def test_of_an_execution_the_last_lines_are_kept(app, monkeypatch):
    monkeypatch.setattr(lines_module, "MOST", 5)

    def body():
        for n in range(7):
            print(n)

    first = run(lambda: print("other"))
    execution_id = run(body)

    assert [each[3] for each in said(app, execution_id)] == ["2", "3", "4", "5", "6"]
    assert [each[3] for each in said(app, first)] == ["other"]


def test_what_comes_faster_than_it_is_stored_is_dropped_and_counted(app, monkeypatch):
    monkeypatch.setattr(lines_module, "BUFFER_LINES", 10)
    monkeypatch.setattr(app._lines, "_seconds", 1e6)  # Nothing is stored until the test says so.
    heard = []
    detach = telemetry.attach(lambda name, fields: heard.append((name, fields)) if name == "lines.dropped" else None)

    def body():
        for n in range(15):
            print(n)
        print("\n".join(map(str, range(15, 25))))

    execution_id = run(body)
    found = said(app, execution_id)
    detach()

    assert [each[3] for each in found] == [str(n) for n in range(10)]
    assert heard == [("lines.dropped", {"lines": 15})]


def test_a_database_that_fails_delays_lines_and_no_task(app, monkeypatch):
    monkeypatch.setattr(app._lines, "_seconds", 1e6)
    add, failing = app.catalogue.add_lines, True

    class Failing:
        def add_lines(self, lines, *, most):
            if failing:
                raise StoreError("the disk is full")
            add(lines, most=most)

    monkeypatch.setattr(app._lines, "_catalogue", Failing())
    execution_id = run(lambda: print("late"))

    assert app._lines.flush() is False
    failing = False
    assert [each[3] for each in said(app, execution_id)] == ["late"]


def test_lines_are_stored_by_themselves(app):
    stored = threading.Event()
    add = app.catalogue.add_lines

    class Telling:
        def add_lines(self, lines, *, most):
            add(lines, most=most)
            stored.set()

    app._lines._catalogue = Telling()
    execution_id = run(lambda: print("soon"))

    assert stored.wait(10)
    assert [line.text for line in app.catalogue.lines(execution_id, after=0, limit=10)] == ["soon"]


def test_closing_stores_the_rest_and_gives_the_streams_back(make_app, workdir):
    factory = logging.getLogRecordFactory()
    app = make_app(keep_output=True)
    app._lines._seconds = 1e6
    execution_id = run(lambda: print("last"))
    attempt = app._lines._said[0].attempt
    attempt.is_over = False  # As that of a thread that goes on.
    app._lines.printed(attempt, "stdout", "half")
    app.close()

    assert "write" not in sys.stdout.__dict__
    assert logging.getLogRecordFactory() is factory
    assert [line.text for line in make_app().catalogue.lines(execution_id, after=0, limit=10)] == ["last", "half"]


# -- hard cases


def test_text_that_no_database_takes_is_kept_escaped(app):
    assert [each[3] for each in said(app, run(lambda: log.error("\ud800 \x00 ok")))] == ["\\ud800 \x00 ok"]


def test_a_stream_that_was_replaced_by_the_task_is_its_own(app):
    def body():
        mine = io.StringIO()
        print("hidden", file=mine)
        assert mine.getvalue() == "hidden\n"

    assert said(app, run(body)) == []


def test_printing_while_a_line_is_being_kept_does_not_deadlock(app):
    """As a signal handler or a finaliser does it."""
    real = app._lines._clock

    class Interrupting:
        def now(self):
            app._lines._clock = real
            print("from within")
            return real.now()

    def body():
        app._lines._clock = Interrupting()
        print("outer")

    assert sorted(each[3] for each in said(app, run(body))) == ["from within", "outer"]


def test_a_forked_child_prints_without_its_parents_lines(app):
    def body():
        with app._lines._lock:  # As another thread may hold it.
            child = os.fork()
            if not child:
                os.write(1, b"")
                print("in the child")
                os._exit(0 if taps._listeners == () else 1)
        assert os.waitpid(child, 0)[1] == 0

    assert said(app, run(body)) == []


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_process_without_a_stream_keeps_what_is_left(make_app, monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    app = make_app(keep_output=True)

    assert [each[2] for each in said(app, run(lambda: log.error("x")))] == ["ERROR"]
