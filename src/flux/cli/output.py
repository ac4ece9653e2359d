"""What commands print; this module is for keeping data on stdout, messages on stderr, and terminals unharmed."""

import json
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, TextIO

from flux import serde
from flux.domain.execution import ExecutionState


class Exit(IntEnum):
    """What a command's end means to the shell; documented in docs/cli.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    PAUSED = 4
    INTERRUPTED = 130
    PIPE_CLOSED = 141


EXIT_OF_STATE = {
    ExecutionState.COMPLETED: Exit.OK,
    ExecutionState.FAILED: Exit.FAILED,
    ExecutionState.CANCELLED: Exit.FAILED,
    ExecutionState.PAUSED: Exit.PAUSED,
}


class CommandError(Exception):
    """A command cannot do what it was asked to.

    Args:
        message: What, why, what to do; one line.
        code: With which the command ends.
        traceback: Of the user's own code, printed before the message.
    """

    def __init__(self, message: str, code: Exit, *, traceback: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.traceback = traceback


class PipeClosed(Exception):  # noqa: N818 - not an error: `| head` has seen enough.
    """Nobody reads stdout any more."""


def safe(text: str) -> str:
    """The text with everything that a terminal would obey made visible; line ends and tabs stay.

    Example:
        >>> safe("\\x1b[31mred")
        '\\\\x1b[31mred'
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def one_line(text: str, limit: int = 0) -> str:
    """The text on one line, cut to `limit` characters if that is given."""
    line = safe(_LINE_END.sub(" ", text.strip()))
    return f"{line[: limit - 1]}…" if limit and len(line) > limit else line


_LINE_END = re.compile(r"\s*[\n\t]\s*")
_OBEYED = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})  # Controls, bidirectional overrides, half characters.


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _OBEYED:
        return character
    return character.encode("unicode_escape").decode()


def data(text: str) -> None:
    """Write a line of data to stdout.

    Raises:
        PipeClosed: Nobody reads it.
    """
    try:
        _write(sys.stdout, f"{text}\n")
    except BrokenPipeError:
        raise PipeClosed from None


def data_json(value: Any, *, indent: int | None = 2) -> None:
    """Write a value as JSON to stdout; what the terminal would obey is escaped by JSON itself."""
    data_of_json(json.dumps(value, ensure_ascii=False, indent=indent))


def data_of_json(text: str) -> None:
    """Write JSON to stdout with what the terminal would obey escaped, which leaves its values as they are."""
    data(_NOT_JSON_ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


_NOT_JSON_ESCAPED = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def data_value(value: Any) -> None:
    """Write a displayed value plainly: text as it is, None as nothing, the rest as JSON."""
    if isinstance(value, str):
        data(safe(value))
    elif value is not None:
        data_json(value)


def message(text: str, *, style: str = "") -> None:
    """Write a message to stderr; the part before its first colon is coloured by `style` on a terminal."""
    stream = sys.stderr
    text = safe(text)
    if style and has_colour(stream):
        head, colon, rest = text.partition(":" if style == "error" else " ")
        text = f"\x1b[{_STYLES[style]}m{head}{colon}\x1b[0m{rest}"
    try:
        _write(stream, f"{text}\n")
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_STYLES = {"error": "1;31", "good": "32", "bad": "31", "waiting": "33"}


def error(text: str) -> None:
    """Write `error: …`, on one line."""
    message(f"error: {one_line(text, 4000)}", style="error")


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at the stream, on something that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_colour(stream: TextIO) -> bool:
    """Whether to colour: on a terminal, unless NO_COLOR is set."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def _write(stream: TextIO | None, text: str) -> None:
    if stream is not None:  # It was closed before the command began.
        stream.write(text)
        stream.flush()


REMOTE = ("executions", "workflows", "workers")  # The commands that can ask a server.


def command(*words: str) -> str:
    """A command of ours to copy; it names the database or the server that was named on this command line."""
    where = (*(("--database", named_database[0]) if named_database else ()),)
    where += ("--server", named_server[0]) if named_server and words[0] in REMOTE else ()
    return shlex.join(["flux", *where, *words])


def label_options(labels: Mapping[str, str]) -> list[str]:
    """Labels as options of `flux worker`."""
    return [word for name, value in labels.items() for word in ("--label", f"{name}={value}")]


def label_text(labels: Mapping[str, str], limit: int = 0) -> str:
    """Labels on one line, cut to `limit` characters if that is given."""
    return one_line(", ".join(f"{name}={value}" for name, value in labels.items()), limit)


named_database: list[str] = []  # By --database on this command line; at most one.
named_server: list[str] = []  # By --server.


def error_text(shown: Any, limit: int = 0) -> str:
    """A displayed error as `Type: message`, on one line."""
    if isinstance(shown, dict) and {"type", "message"} <= shown.keys():
        name, text = str(shown["type"]), str(shown["message"])
        return one_line(f"{name}: {text}" if text else name, limit)
    return one_line(str(shown), limit)


def value_text(value: Any) -> str:
    """A displayed value on one line, as JSON."""
    return one_line(json.dumps(serde.to_display(value), ensure_ascii=False))


def duration(microseconds: float) -> str:
    """How long something took, for people.

    Example:
        >>> duration(400), duration(31_000), duration(1_200_000), duration(123_000_000)
        ('0.4 ms', '31 ms', '1.2 s', '2 min 03 s')
    """
    milliseconds = max(0.0, microseconds) / 1000
    if milliseconds < 9.95:
        return f"{milliseconds:.1f} ms" if milliseconds >= 0.05 else "0 ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"
