"""From what JSON holds back to a value; this module is for reading what `tagging` wrote, also when it is damaged."""

from binascii import a2b_base64
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import TYPE_CHECKING, Any

import pydantic

from flux.serde.classes import NotLoadedError, find, find_class, package
from flux.serde.tagging import FACTORIES, TAG

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

# What the reading of a tree raises that no tagger wrote; the second line is of numpy, pandas and Arrow.
DAMAGE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(OSError, NotImplementedError, MemoryError, AssertionError),
)
_PATHS = {kind.__name__: kind for kind in (PosixPath, PurePosixPath, WindowsPath, PureWindowsPath)}
_LONGEST_NAME = 1000  # What is longer is no name, but the content of an array.
_FACTORIES = {factory and factory.__name__: factory for factory in FACTORIES}


class Untagger:
    """Walks a tree and gives the value. The tree is used up: its containers become those of the value."""

    def untag(self, tree: Any) -> Any:
        """The value that a tree stands for.

        Raises:
            NotLoadedError: A class is not among the loaded modules.
            DAMAGE: The tree is none that a tagger wrote.
        """
        kind = type(tree)
        if kind is dict:
            if len(tree) == 1:
                ((key, payload),) = tree.items()
                if key[:1] == TAG:
                    return self.read(key, payload)
            return self.values(tree)
        return self.items(tree) if kind is list else tree

    def read(self, tag: str, payload: Any) -> Any:
        """The value of a tagged object."""
        return READERS[tag](self, payload)

    def values(self, tree: dict[str, Any]) -> dict[str, Any]:
        """The same dict, its values read."""
        for key, item in tree.items():
            if type(item) is dict or type(item) is list:
                tree[key] = self.untag(item)
        return tree

    def items(self, tree: list[Any]) -> list[Any]:
        """The same list, its items read."""
        for index, item in enumerate(tree):
            if type(item) is dict or type(item) is list:
                tree[index] = self.untag(item)
        return tree

    def pairs(self, tree: list[Any]) -> list[Any]:
        """The pairs of a mapping, read."""
        return [(self.untag(key), self.untag(item)) for key, item in tree]


class LenientUntagger(Untagger):
    """Reads for display: an object whose class is not loaded becomes a dict of its attributes."""

    def read(self, tag: str, payload: Any) -> Any:
        """The value of a tagged object, or what of it needs no class."""
        try:
            return super().read(tag, payload)
        except NotLoadedError:
            if isinstance(payload, list):
                return self.untag(payload[1])
            return payload if isinstance(payload, str) and len(payload) < _LONGEST_NAME else f"<{tag[1:]}>"


def _require(fits: bool, recorded: Any) -> None:  # noqa: FBT001 - it is the condition, not a flag.
    # What a name stands for has changed since: the class has become something else.
    if not fits:
        raise NotLoadedError(str(recorded))


def _object(untagger: Untagger, payload: Any) -> Any:
    kind = find_class(payload[0])
    _require(hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__attrs_attrs__"), payload[0])
    value = object.__new__(kind)
    for name, item in untagger.values(payload[1]).items():
        object.__setattr__(value, name, item)
    return value


def _model(untagger: Untagger, payload: Any) -> Any:
    recorded, fields, fields_set, extra, private = payload
    kind = find_class(recorded)
    _require(issubclass(kind, pydantic.BaseModel), recorded)
    value = object.__new__(kind)
    object.__setattr__(value, "__dict__", untagger.values(fields))
    object.__setattr__(value, "__pydantic_fields_set__", set(fields_set))
    object.__setattr__(value, "__pydantic_extra__", extra and untagger.values(extra))
    object.__setattr__(value, "__pydantic_private__", private and untagger.values(private))
    return value


def _named(untagger: Untagger, payload: Any) -> Any:
    kind = find_class(payload[0])
    _require(issubclass(kind, tuple) and hasattr(kind, "_fields"), payload[0])
    return tuple.__new__(kind, untagger.items(payload[1]))


def _enum(_: Untagger, payload: Any) -> Any:
    kind = find_class(payload[0])
    _require(issubclass(kind, Enum) and payload[1] in kind.__members__, f"{payload[0]}.{payload[1]}")
    return kind.__members__[payload[1]]


def _flag(untagger: Untagger, payload: Any) -> Any:
    kind = find_class(payload[0])
    _require(issubclass(kind, Enum), payload[0])
    return kind(untagger.untag(payload[1]))


def _datetime(untagger: Untagger, payload: Any) -> Any:
    text, fold, zone = payload
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=untagger.untag(zone))


def _time(untagger: Untagger, payload: Any) -> Any:
    text, fold, zone = payload
    return time.fromisoformat(text).replace(fold=fold, tzinfo=untagger.untag(zone))


def _zone(_: Untagger, payload: Any) -> "ZoneInfo":
    zoneinfo = package("zoneinfo")
    try:
        return zoneinfo.ZoneInfo(payload)  # type: ignore[no-any-return]
    except zoneinfo.ZoneInfoNotFoundError:
        raise NotLoadedError(f"time zone {payload}") from None


def _complex(untagger: Untagger, payload: Any) -> complex:
    real, imaginary = untagger.items(payload)
    return complex(real, imaginary)


# By tag; `failures` adds that of errors.
READERS: dict[str, Callable[[Untagger, Any], Any]] = {
    "~int": lambda _, payload: int(payload, 16),
    "~float": lambda _, payload: float(payload),
    "~complex": _complex,
    "~bytes": lambda _, payload: a2b_base64(payload),
    "~bytearray": lambda _, payload: bytearray(a2b_base64(payload)),
    "~dict": lambda untagger, payload: dict(untagger.pairs(payload)),
    "~tuple": lambda untagger, payload: tuple(untagger.items(payload)),
    "~set": lambda untagger, payload: set(untagger.items(payload)),
    "~frozenset": lambda untagger, payload: frozenset(untagger.items(payload)),
    "~range": lambda untagger, payload: range(*untagger.items(payload)),
    "~deque": lambda untagger, payload: deque(untagger.items(payload[0]), payload[1]),
    "~OrderedDict": lambda untagger, payload: OrderedDict(untagger.pairs(payload)),
    "~Counter": lambda untagger, payload: Counter(dict(untagger.pairs(payload))),
    "~defaultdict": lambda untagger, payload: defaultdict(_FACTORIES[payload[0]], untagger.pairs(payload[1])),
    "~datetime": _datetime,
    "~time": _time,
    "~date": lambda _, payload: date.fromisoformat(payload),
    "~timedelta": lambda _, payload: timedelta(*payload),
    "~timezone": lambda _, payload: timezone(timedelta(*payload[:3]), *payload[3:]),
    "~zone": _zone,
    "~Decimal": lambda _, payload: Decimal(payload),
    "~UUID": lambda _, payload: package("uuid").UUID(hex=payload),
    "~path": lambda _, payload: _PATHS[payload[0]](payload[1]),
    "~object": _object,
    "~model": _model,
    "~named": _named,
    "~enum": _enum,
    "~flag": _flag,
    "~name": lambda _, payload: find(payload) if type(payload) is str else payload[0],
}
