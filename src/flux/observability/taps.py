"""What tasks print and log, heard on its way; it goes where it went all the same.

The streams stay the objects that they are, and get another `write`: whoever holds them already is heard, too.  Records
are heard where they are made, so that neither handlers nor `propagate` decide.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from flux.engine import calls, lineage

if TYPE_CHECKING:
    from flux.engine.attempt import Attempt

STREAMS = ("stdout", "stderr")
_EMIT = logging.StreamHandler.emit.__code__
_formatter = logging.Formatter()


class Listener(Protocol):
    """Is told what the code of an attempt says; called in its place, so it must be quick and must not fail."""

    def printed(self, attempt: "Attempt", stream: str, text: str) -> None:
        """A piece of text was written to "stdout" or "stderr"."""
        ...

    def logged(self, attempt: "Attempt", level: str, text: str) -> None:
        """A record was logged; the text has a traceback, if there is one."""
        ...


_listeners: tuple[Listener, ...] = ()
_undo: list[Callable[[], None]] = []
_lock = threading.Lock()


def listen(listener: Listener) -> Callable[[], None]:
    """Tell a listener of what tasks say from now on; returns a function that ends it."""
    global _listeners  # noqa: PLW0603 - the streams are of the process, too.
    with _lock:
        if not _listeners:
            _install()
        _listeners = (*_listeners, listener)
    return lambda: _leave(listener)


def _leave(listener: Listener) -> None:
    global _listeners  # noqa: PLW0603
    with _lock:
        if listener not in _listeners:
            return
        _listeners = tuple(each for each in _listeners if each is not listener)
        while not _listeners and _undo:
            _undo.pop()()


def _install() -> None:
    for name in STREAMS:
        stream = getattr(sys, name)
        if stream is not None and not (name == "stderr" and stream is sys.stdout):
            _undo.append(_tap_stream(stream, name))
    before = logging.getLogRecordFactory()

    def create(*args: Any, **keywords: Any) -> logging.LogRecord:
        record = before(*args, **keywords)
        if (body := calls.current_body()) is not None:
            record.flux_call = body.description()
        elif (branch := lineage.current()) is not None:
            _hear(branch.attempt, record)
        return record

    def undo() -> None:
        if logging.getLogRecordFactory() is create:  # Else somebody builds on it, and it hears nothing any more.
            logging.setLogRecordFactory(before)

    logging.setLogRecordFactory(create)
    _undo.append(undo)


def _tap_stream(stream: TextIO, name: str) -> Callable[[], None]:
    write = stream.write

    def heard(text: str) -> int:
        branch = lineage.current()
        if branch is not None and sys._getframe(1).f_code is not _EMIT:  # A record is heard as such.
            for listener in _listeners:
                listener.printed(branch.attempt, name, str(text))
        return write(text)

    def undo() -> None:
        if stream.__dict__.get("write") is heard:
            del stream.write

    stream.write = heard  # type: ignore[method-assign]
    return undo


def _hear(attempt: "Attempt", record: logging.LogRecord) -> None:
    record.flux_call = attempt.description()
    text = _text(record)
    if attempt.redactor is not None:
        text = _redacted(attempt.redactor.text, record, text)
    for listener in _listeners:
        listener.logged(attempt, record.levelname, text)


def _text(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - values of users', which logging itself complains of in a moment.
        text = str(record.msg) if isinstance(record.msg, str) else type(record.msg).__name__
    if record.exc_info:
        text += "\n" + _formatter.formatException(record.exc_info)
    return text


def _redacted(redact: Callable[[str], str], record: logging.LogRecord, text: str) -> str:
    """Cover the secrets of a task in what it logs, for every handler."""
    text = redact(text)
    if record.exc_info:
        record.exc_text = redact(_formatter.formatException(record.exc_info))
        record.msg = text.removesuffix(f"\n{record.exc_text}")
    else:
        record.msg = text
    record.args = ()
    return text


def _forget_after_fork() -> None:
    """Nobody stores what a forked child says, and a lock may be held by a thread that it has not."""
    global _listeners, _lock
    _listeners, _lock = (), threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)
