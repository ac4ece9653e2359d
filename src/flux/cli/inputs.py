"""INPUT, VALUE and NAME=VALUE of a command line; this module is for what a person means by a few characters."""

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from flux import serde
from flux.cli.output import CommandError, Exit
from flux.errors import InvalidInputError

_WORDS = {"null": None, "none": None, "true": True, "false": False}


def parse(text: str) -> Any:
    """null/none, true/false, numbers and JSON are what they say; everything else is the text itself.

    Example:
        >>> parse("3"), parse('{"a": 1}'), parse("None"), parse("007")
        (3, {'a': 1}, None, '007')
    """
    word = text.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return text


def fit(text: str, annotation: Any) -> Any:
    """The input that a workflow of this annotation is to be given.

    Where the annotation is `str`, or takes the text but not what it looks like, the text itself is meant.

    Raises:
        InvalidInputError: Neither fits.
    """
    if annotation is str:
        return text
    value = parse(text)
    try:
        serde.validate(annotation, value)
    except InvalidInputError as error:
        try:
            serde.validate(annotation, text)
        except InvalidInputError:
            why = f"{error}{_broken_json(text, value)}"
            raise InvalidInputError(f"the input does not fit the workflow: {why}") from None
        return text
    return value


def note_on(text: str, value: Any) -> str:
    """What to tell somebody who seems to have meant JSON; empty if nothing."""
    return f"note: passed as text{_broken_json(text, value)}" if _broken_json(text, value) else ""


def _broken_json(text: str, value: Any) -> str:
    if value is not text or text.lstrip()[:1] not in {"{", "["}:
        return ""
    try:
        json.loads(text)
    except ValueError as error:
        return f", because it is not JSON: {error}"
    except RecursionError:
        return ", because as JSON it nests too deeply"
    return ""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(text)
    return number


def attributes(given: Sequence[str]) -> dict[str, str]:
    """What `--attribute NAME=VALUE` gives, several times.

    Raises:
        CommandError: One has no name or no value, or one name has two.
    """
    found: dict[str, str] = {}
    for name, equals, value in (each.partition("=") for each in given):
        if not name or not equals:
            raise CommandError(f"the attribute {name!r} has no value: write --attribute NAME=VALUE", Exit.USAGE)
        if found.setdefault(name, value) != value:
            raise CommandError(f"the attribute {name!r} is given two values: give it one", Exit.USAGE)
    return found
