"""Keeps secrets out of what is recorded and shown, in whatever form they come: quoted, escaped, encoded, cut short."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from flux import serde

SHORTEST = 8  # A shorter secret would be found in texts that have nothing to do with it.
_TELLING = 12  # So much of a longer secret is covered, too: the beginning or the end, as whoever cuts a text leaves it.


class Redactor:
    """Finds and covers the secrets that a task requested.

    Args:
        secrets: By name; texts, bytes and numbers inside a value count, those of 8 characters and more.
        outer: Knows further ones: those of the task inside which this one was called.
    """

    def __init__(self, secrets: Mapping[str, Any], outer: "Redactor | None" = None) -> None:
        texts = [(text, name) for name, secret in secrets.items() for text in _texts(secret) if len(text) >= SHORTEST]
        self._forms = {form: name for text, name in texts for form in _forms(text) if len(form) >= SHORTEST}
        lines = {line.strip(): name for text, name in texts for line in text.splitlines()}
        self._covered = self._forms | {line: name for line, name in lines.items() if len(line) > _TELLING}
        if outer is not None:
            self._forms, self._covered = outer._forms | self._forms, outer._covered | self._covered
        self._in_json = {json.dumps(form, ensure_ascii=False)[1:-1] for form in self._forms}
        # The longest first: one form may contain another.
        self._covered = dict(sorted(self._covered.items(), key=lambda form: -len(form[0])))

    def text(self, text: str) -> str:
        """The text with each secret covered, and what is left of one that was cut."""
        for form, name in self._covered.items():
            text = text.replace(form, f"[secret {name}]")
        for form, name in reversed(self._covered.items()):
            size, label = min(_TELLING, max(SHORTEST, len(form) // 2)), f"[secret {name}]"
            if form[:size] in text:
                text = _cover(text, form, size, label)
            if form[-size:] in text:
                text = _cover(text[::-1], form[::-1], size, label[::-1])[::-1]
        return text

    def encoded(self, data: bytes) -> bytes:
        """The same for all texts inside an encoded value, which can be decoded as before."""
        return serde.rewritten(data, self.text) if self._covered else data

    def find(self, value: Any, data: bytes | None = None, *, path: str = "value") -> str | None:
        """The path to the first place inside a value that holds a whole secret, or None.

        Args:
            data: The value, encoded, if it is: then that decides, for values of every kind.
            path: Of the value itself.
        """
        if not self._forms or (data is not None and not self._is_in(data)):
            return None
        leaves = _leaves(serde.to_display(value), path)
        at = next((at for at, leaf in leaves if any(form in leaf for form in self._forms)), None)
        return at if data is None else at or path

    def _is_in(self, data: bytes) -> bool:
        """Whether a secret is in an encoded value."""
        text = str(data, "utf-8", "surrogateescape")
        return any(form in text for form in (self._in_json if serde.is_text(data) else self._forms))


def _cover(text: str, form: str, size: int, label: str) -> str:
    """Put a label wherever a text goes on as the form does, for `size` characters or more."""
    pieces, end = [], 0
    while (start := text.find(form[:size], end)) >= 0:
        pieces += [text[end:start], label]
        part = text[start : start + len(form)]
        pairs = enumerate(zip(part, form, strict=False))
        end = start + next((at for at, (one, other) in pairs if one != other), len(part))
    return "".join([*pieces, text[end:]])


def _texts(secret: Any) -> Iterator[str]:
    """The parts of a secret that are secret: of a dict, the values."""
    match secret:
        case str():
            yield secret
        case bytes() | bytearray():
            yield secret.decode("utf-8", "surrogateescape")
        case Mapping():
            yield from (text for item in secret.values() for text in _texts(item))
        case list() | tuple() | set() | frozenset():
            yield from (text for item in secret for text in _texts(item))
        case None | int() | float():
            yield str(secret)
        case _:
            yield from _texts(serde.to_display(secret))


def _leaves(view: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every text, key and number inside a displayed value, with the path to it."""
    if isinstance(view, dict):
        for key, item in view.items():
            yield f"{path} (a key)", key
            yield from _leaves(item, f"{path}[{key!r}]")
    elif isinstance(view, list):
        for index, item in enumerate(view):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, str(view)


def _forms(text: str) -> Iterator[str]:
    """How a text can look when it was escaped, quoted or encoded on its way."""
    yield text
    once = [escape(text) for escape in _ESCAPES]
    yield from once
    yield from (escape(escaped) for escaped in once for escape in _ESCAPES)  # A repr inside JSON, say.
    raw = _raw(text)
    yield quote(raw, safe="")
    yield quote(raw)
    yield quote_plus(raw)
    yield from (raw.hex(), raw.hex().upper(), text.replace("-", ""))  # The last for an UUID.
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):  # Where it stands in a longer text that was encoded as a whole.
            yield _inner_base64(encode(b"\0" * shift + raw).decode(), shift, len(raw))


_ESCAPES: tuple[Callable[[str], str], ...] = (
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: repr(text)[1:-1],
    lambda text: repr(_raw(text))[2:-1],
)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _inner_base64(encoded: str, shift: int, size: int) -> str:
    """The characters that depend on the text alone."""
    first = (shift * 8 + 5) // 6
    last = (shift + size) * 8 // 6
    return encoded[first:last]
