"""Keeps secrets out of what is recorded and shown, in whatever form they come: quoted, escaped, encoded."""

import base64
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

SHORTEST = 8  # A shorter secret would be found in texts that have nothing to do with it.


class Redactor:
    """Finds and covers the secrets that a task requested.

    Args:
        secrets: By name; texts and bytes inside a value count, those of 8 characters and more.
    """

    def __init__(self, secrets: Mapping[str, Any]) -> None:
        forms = {form: name for name, secret in secrets.items() for text in _texts(secret) for form in _forms(text)}
        ordered = sorted(forms, key=len, reverse=True)  # The longest first: one form may contain another.
        self._names = forms
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def text(self, text: str) -> str:
        """The text with each secret covered."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: f"[secret {self._names[match[0]]}]", text)

    def bytes(self, data: bytes) -> bytes:
        """The same for encoded values; JSON stays JSON."""
        if self._pattern is None:
            return data
        text = data.decode("utf-8", "surrogateescape")
        return self.text(text).encode("utf-8", "surrogateescape")

    def find(self, value: Any) -> str | None:
        """The path to the first place inside a value that holds a secret, or None."""
        if self._pattern is None:
            return None
        return next((path for path, text in _leaves(value, "value", set()) if self._pattern.search(text)), None)


def _texts(secret: Any) -> Iterator[str]:
    """The parts of a secret that are to be covered."""
    return (text for _, text in _leaves(secret, "", set()) if len(text) >= SHORTEST)


def _leaves(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, str]]:
    """Every text inside a value, with the path to it."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, bytes | bytearray):
        yield path, bytes(value).decode("utf-8", "surrogateescape")
    elif isinstance(value, int | float | bool | None) or id(value) in seen:
        yield path, str(value)
    else:
        seen.add(id(value))
        for key, item in _items(value):
            yield from _leaves(key, f"{path} (a key)", seen)
            yield from _leaves(item, f"{path}[{key!r}]", seen)


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return enumerate(value)
    if isinstance(value, BaseException):
        return [("args", value.args), *vars(value).items()]
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    if hasattr(value, "__dict__"):
        return list(vars(value).items())
    return [("", str(value))]


def _forms(text: str) -> Iterator[str]:
    """How a text can look when it was escaped, quoted or encoded on its way."""
    raw = text.encode("utf-8", "surrogateescape")
    yield text
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield repr(text)[1:-1]
    yield json.dumps(repr(text)[1:-1], ensure_ascii=False)[1:-1]  # A repr inside recorded JSON.
    yield quote(raw, safe="")
    yield quote(raw)
    yield quote_plus(raw)
    yield from (raw.hex(), raw.hex().upper())
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):  # Where it stands in a longer text that was encoded as a whole.
            yield _inner_base64(encode(b"\0" * shift + raw).decode(), shift, len(raw))


def _inner_base64(encoded: str, shift: int, size: int) -> str:
    """The characters that depend on the text alone."""
    first = (shift * 8 + 5) // 6
    last = (shift + size) * 8 // 6
    return encoded[first:last]
