"""The log of a server or a worker: one line a record, for people or for programs, that nobody can forge.

A record that comes from a task has the fields of its attempt (`taps` puts them there); so has one with `extra=`.
"""

import json
import logging
import os
import re
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from flux import serde
from flux.settings import LogFormat, LogLevel

LONGEST = 64 * 1024
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "flux_call"}
_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "1;31", "CRITICAL": "1;31"}
_QUOTED = re.compile(r'[\s"=]|^$')
_NOT_JSON_ESCAPED = re.compile("\x7f")


def install(form: LogFormat, level: LogLevel, stream: TextIO) -> Callable[[], None]:
    """Write what is logged in this process to a stream; returns a function that ends it.

    Handlers that are there already stay: a program that sets up its own log has it beside this one.
    """
    root = logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter(has_colour=_has_colour(stream)))
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())

    def uninstall() -> None:
        root.removeHandler(handler)
        root.setLevel(before)

    return uninstall


class JsonFormatter(logging.Formatter):
    """A JSON object a record; everything but plain ASCII is escaped.

    Its own keys win over fields of the same name that a record brings.
    """

    def format(self, record: logging.LogRecord) -> str:
        shown = {
            **_fields(record),
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:LONGEST],
        }
        if trace := _trace(record):
            shown["exception"] = trace
        return _NOT_JSON_ESCAPED.sub(r"\\u007f", json.dumps(shown, ensure_ascii=True))


class TextFormatter(logging.Formatter):
    """A line a record, with its fields at the end; a traceback follows in lines that begin with a bar.

    Args:
        has_colour: Whether levels are coloured.
    """

    def __init__(self, *, has_colour: bool) -> None:
        super().__init__()
        self._has_colour = has_colour

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f"{record.levelname:7}"
        if self._has_colour and record.levelname in _COLOURS:
            level = f"\x1b[{_COLOURS[record.levelname]}m{level}\x1b[0m"
        fields = "".join(f" {visible(name)}={_quoted(value)}" for name, value in _fields(record).items())
        line = f"{at}.{int(record.msecs):03} {level} {visible(record.name)}: "
        trace = "".join(f"\n  | {visible(each)}" for each in _trace(record).split("\n") if each)
        return f"{line}{visible(record.getMessage()[:LONGEST])}{fields}{trace}"


def visible(text: str) -> str:
    """The text with everything that ends a line, or that a terminal would obey, made visible."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(visible(text), ensure_ascii=False) if _QUOTED.search(text) else visible(text)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a record tells besides its message: whose it is, and what was given as `extra`."""
    extra = {name: serde.to_display(value) for name, value in record.__dict__.items() if name not in _OWN}
    return {**extra, **getattr(record, "flux_call", {})}


def _trace(record: logging.LogRecord) -> str:
    text = record.exc_text or ""
    if not text and record.exc_info:
        text = "".join(traceback.format_exception(*record.exc_info))
    return (text + (f"\n{record.stack_info}" if record.stack_info else "")).rstrip("\n")[-LONGEST:]


def _has_colour(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")
