"""The log of a server: one line a record, with the fields of its task, that nobody can forge."""

import io
import json
import logging
import sys

import pytest

from flux import ExecutionContext, task, workflow
from flux.errors import InvalidInputError
from flux.observability import logs
from flux.settings import LogFormat, LogLevel, load

log = logging.getLogger("shop")
HOSTILE = "paid\r\n12:00:00.000 ERROR   flux: forged\x1b[31m \x7f \x85 \u2028 \u2029 \u202e \x00"


@pytest.fixture
def written():
    """Installs a log, and gives what it wrote."""
    undo = []

    def install(form, level=LogLevel.INFO, stream=None):
        stream = stream or io.StringIO()
        undo.append(logs.install(form, level, stream))
        return lambda: stream.getvalue().split("\n")[:-1]

    yield install
    while undo:
        undo.pop()()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("form", LogFormat)
def test_a_record_is_one_line_whatever_is_in_it(written, form):
    lines = written(form)
    log.info("%s", HOSTILE, extra={"customer\n": HOSTILE, "plain": 7})

    (line,) = lines()
    assert line.isprintable()
    if form is LogFormat.JSON:
        assert json.loads(line)["message"] == HOSTILE
        assert json.loads(line)["customer\n"] == HOSTILE
        assert line.isascii()
    else:
        assert r"paid\r\n12:00:00.000 ERROR" in line
        assert " plain=7" in line


def test_lines_of_a_traceback_cannot_pass_for_records(written):
    lines = written(LogFormat.TEXT)
    try:
        raise ValueError("lost\n12:00:00.000 ERROR   flux: forged\x1b[2J")
    except ValueError:
        log.exception("not sold")

    first, *others = lines()
    assert first.endswith("ERROR   shop: not sold")
    assert others
    assert all(line.startswith("  | ") and line.isprintable() for line in others)


def test_a_traceback_is_a_field_of_its_record_in_json(written):
    lines = written(LogFormat.JSON)
    try:
        raise ValueError("no stock")
    except ValueError:
        log.exception("not sold", stack_info=True)

    (line,) = lines()
    shown = json.loads(line)
    assert shown["exception"].startswith("Traceback (most recent call last):\n")
    assert "ValueError: no stock\nStack (most recent call last):" in shown["exception"]
    assert (shown["level"], shown["logger"], shown["message"]) == ("error", "shop", "not sold")


@pytest.mark.parametrize("form", LogFormat)
def test_a_record_of_a_task_tells_whose_it_is(app, written, form):
    lines = written(form)

    @task.with_options(name="pack {n}", retry_max_attempts=1, retry_delay=0)
    async def pack(n: int) -> None:
        log.info("packing", extra={"boxes": n})
        if len(seen) < 1:
            seen.append(n)
            raise ValueError

    seen: list[int] = []

    @workflow
    async def sell(ctx: ExecutionContext[int]) -> None:
        log.info("selling")
        await pack(ctx.input)

    sell.run(7, execution_id="order-7")
    log.info("outside")

    if form is LogFormat.JSON:
        selling, first, second, outside = map(json.loads, lines())
        assert (selling["execution_id"], selling["workflow"], selling.get("task")) == ("order-7", "sell", None)
        whose = {"execution_id": "order-7", "workflow": "sell", "call_id": "1", "task": "pack 7", "boxes": 7}
        assert {name: value for name, value in first.items() if name in {*whose, "attempt"}} == {**whose, "attempt": 1}
        assert second["attempt"] == 2
        assert "execution_id" not in outside
    else:
        selling, first, second, outside = lines()
        assert selling.endswith("shop: selling execution_id=order-7 workflow=sell")
        assert first.endswith(
            'shop: packing boxes=7 execution_id=order-7 workflow=sell call_id=1 task="pack 7" attempt=1'
        )
        assert outside.endswith("shop: outside")


def test_fields_of_users_neither_fail_nor_take_the_place_of_ours(written):
    lines = written(LogFormat.JSON)
    log.info("ok", extra={"level": "fake", "time": 0, "odd": object(), "flux": {1: b"x"}, "execution_id": "theirs"})

    shown = json.loads(lines()[0])
    assert (shown["level"], shown["execution_id"]) == ("info", "theirs")
    assert shown["odd"].startswith("<")


def test_the_level_is_that_of_the_setting(written):
    lines = written(LogFormat.TEXT, LogLevel.WARNING)
    log.info("quiet")
    log.warning("loud")

    assert [line.rpartition(" ")[2] for line in lines()] == ["loud"]


@pytest.mark.parametrize(
    ("variables", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_levels_are_coloured_on_a_terminal_that_wants_it(written, monkeypatch, variables, is_coloured):
    for name, value in {"NO_COLOR": "", "TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    terminal, pipe = Terminal(), io.StringIO()
    written(LogFormat.TEXT, stream=terminal)
    written(LogFormat.TEXT, stream=pipe)
    log.error("bad")

    assert ("\x1b[" in terminal.getvalue()) is is_coloured
    assert "\x1b[" not in pipe.getvalue()


def test_a_log_that_is_taken_away_leaves_logging_as_it_was():
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    logs.install(LogFormat.JSON, LogLevel.DEBUG, sys.stderr)()

    assert (root.level, root.handlers) == before


@pytest.mark.parametrize("name", ["log_format", "log_level"])
def test_a_setting_of_the_log_is_one_of_a_list(workdir, name, monkeypatch):
    monkeypatch.setenv(f"FLUX_{name.upper()}", "JSON" if name == "log_format" else "Debug")
    assert getattr(load(), name) in {LogFormat.JSON, LogLevel.DEBUG}

    monkeypatch.setenv(f"FLUX_{name.upper()}", "xml")
    with pytest.raises(InvalidInputError, match="'xml'"):
        load()
