"""From a value to what JSON can hold; this module is for the closed list of types that a history keeps exactly.

What JSON holds stands for itself. Anything else is an object with one key that begins with `~`, its tag.
`untagging` is the way back.
"""

import sys
from binascii import b2a_base64
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from functools import cached_property, lru_cache
from json import JSONEncoder
from json import encoder as json_encoder
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from re import compile as pattern
from reprlib import Repr
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

import pydantic

from flux.serde.classes import NotLoadedError, package, reference

if TYPE_CHECKING:
    from uuid import UUID
    from zoneinfo import ZoneInfo

TAG = "~"
MAX_DEPTH = 100
FACTORIES = (None, bool, bytearray, bytes, complex, dict, float, frozenset, int, list, set, str, tuple)
_BIG = 1 << 2000  # Below the 640 digits that every interpreter setting reads and writes in decimal.
_ATOMS = frozenset((str, bool, type(None)))
_TEXT = frozenset((bool, type(None)))
_HASH_OF_ATTRS = "_attrs_cached_hash"  # Differs between processes; attrs computes it when it is None.
_ADDRESS = pattern(r" at 0x[0-9a-fA-F]+")  # Differs between processes.
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 200

_JSON = JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
_make_encoder = getattr(json_encoder, "c_make_encoder", None)  # Not every Python has it.
_chunks: Any = _make_encoder and _make_encoder(  # Once: `encode` would make it anew each time.
    None, _JSON.default, json_encoder.encode_basestring, None, ":", ",", False, False, False
)


def dump(tree: Any) -> str:
    """The JSON text of a tree."""
    return "".join(_chunks(tree, 0)) if _chunks is not None else _JSON.encode(tree)


HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, not built into Python.


class Refused(Exception):  # noqa: N818 - caught where the path is known, never shown.
    """A part of a value has no codec; the containers around it add their steps while it passes.

    Args:
        why: The reason, without the path.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.steps: list[str] = []

    def path(self, root: str) -> str:
        """Where the part is, as Python would reach it from `root`; without one, from the names of arguments."""
        steps = self.steps[::-1]
        if not root and steps:
            steps[0] = steps[0].removeprefix('["').removesuffix('"]')
        return root + "".join(steps if len(steps) <= 12 else [*steps[:6], " … ", *steps[-3:]])


class Tagger:
    """Walks a value and gives the tree for it: the very same object where nothing in it needs a tag.

    Args:
        check_text: Look at every string for what UTF-8 cannot hold. Slow, so only done to name the path of a
            string that has failed.
    """

    def __init__(self, *, check_text: bool = False) -> None:
        self._atoms = _TEXT if check_text else _ATOMS

    def tag(self, value: Any, depth: int = MAX_DEPTH) -> Any:
        """The tree for a value that may nest `depth` levels deep.

        Raises:
            Refused: A part of the value has no codec.
        """
        kind: Any = type(value)
        if (
            kind in self._atoms
            or (kind is int and -_BIG < value < _BIG)
            or (kind is float and value - value == 0)  # Neither infinite nor NaN.
        ):
            return value
        if depth <= 0:
            raise Refused(f"the value nests deeper than {MAX_DEPTH} levels, or contains itself")
        return (_WRITERS.get(kind) or _writer_of(kind))(self, value, depth - 1)

    def error(self, error: BaseException, _depth: int) -> Any:
        """The tree for an error."""
        raise Refused(f"a {shown_type(type(error))} cannot be recorded here")

    def other(self, value: Any, _depth: int) -> Any:
        """The tree for a value of no listed type."""
        raise Refused(_why_refused(type(value)))

    def mapping(self, value: dict[Any, Any], depth: int) -> Any:
        """The tree for a dict: a JSON object when every key is text that does not look like a tag."""
        atoms, tree, key, plain = self._atoms, value, None, True
        try:
            for key, item in value.items():
                if type(key) is not str or key[:1] == TAG:
                    plain = False
                    break
                kind = type(item)
                if kind in atoms or (kind is int and -_BIG < item < _BIG):
                    continue
                tagged = self.tag(item, depth)
                if tagged is not item:
                    if tree is value:
                        tree = value.copy()
                    tree[key] = tagged
        except Refused as refused:
            refused.steps.append(step_to(key))
            raise
        return tree if plain and str in atoms else {"~dict": self.pairs(value, depth)}

    def sequence(self, value: list[Any], depth: int) -> list[Any]:
        """The tree for a list."""
        atoms, tree, index = self._atoms, value, 0
        try:
            for index, item in enumerate(value):
                kind = type(item)
                if kind in atoms or (kind is int and -_BIG < item < _BIG):
                    continue
                tagged = self.tag(item, depth)
                if tagged is not item:
                    if tree is value:
                        tree = value.copy()
                    tree[index] = tagged
        except Refused as refused:
            refused.steps.append(f"[{index}]")
            raise
        return tree

    def pairs(self, value: Mapping[Any, Any], depth: int) -> list[Any]:
        """The tree for a mapping with any keys: its pairs, in order."""
        return [
            [self.part(f" key {shown(key)}", key, depth), self.part(step_to(key), item, depth)]
            for key, item in value.items()
        ]

    def members(self, value: Iterable[Any], depth: int) -> list[Any]:
        """The tree for a set: ordered by encoded text, since the iteration order differs between processes."""
        return sorted((self.part(f" member {shown(item)}", item, depth) for item in value), key=dump)

    def part(self, step: str, value: Any, depth: int) -> Any:
        """The tree for a part that is reached by `step`."""
        try:
            return self.tag(value, depth)
        except Refused as refused:
            refused.steps.append(step)
            raise

    def parts(self, state: Mapping[str, Any], depth: int) -> Any:
        """The trees for attributes, by name."""
        return {name: self.part(f".{name}", item, depth) for name, item in state.items()}

    def moment(self, value: datetime | time, depth: int) -> Any:
        """The tree for a datetime or a time: as without a zone, the fold, the zone."""
        zone = self.part(".tzinfo", value.tzinfo, depth)
        return {f"~{type(value).__name__}": [value.replace(tzinfo=None).isoformat(), value.fold, zone]}


def shown(value: object) -> str:
    """A short text for a value of any kind, also one whose `repr()` fails."""
    try:
        return _ADDRESS.sub("", _SHORT.repr(value))
    except Exception:  # noqa: BLE001 - a user's repr, and Python's own of a long int.
        return f"<{type(value).__name__}>"


def shown_type(kind: type) -> str:
    """How a message names a class."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def step_to(key: object) -> str:
    """How a path goes on to the item of a key."""
    return f"[{dump(key)}]" if type(key) is str and len(key) < 80 else f"[{shown(key)}]"


@lru_cache(maxsize=1024)
def slots_of(kind: type) -> tuple[str, ...]:
    """The names of a class's slots, its bases' included."""
    return tuple(
        name
        for base in kind.__mro__
        for name, slot in base.__dict__.items()
        if isinstance(slot, MemberDescriptorType) and base.__flags__ & HEAP_TYPE
    )


def state_of(value: Any, first: Iterable[str] = ()) -> dict[str, Any]:
    """The attributes that an object holds itself, in dict and slots: those named `first`, then the others by name.

    What a `cached_property` remembers is left out: it is no part of the value, and is computed again.
    """
    kind: Any = type(value)
    held = {name: getattr(value, name) for name in slots_of(kind) if hasattr(value, name)}
    held.update(getattr(value, "__dict__", {}))
    held.pop("__orig_class__", None)  # Left behind by `Box[int](…)`.
    if _HASH_OF_ATTRS in held:
        held[_HASH_OF_ATTRS] = None
    names = [name for name in first if name in held]
    names += sorted(held.keys() - set(names))
    return {name: held[name] for name in names if not isinstance(getattr(kind, name, None), cached_property)}


def class_of(value: object) -> Any:
    """What a value's class is recorded as."""
    kind = type(value)
    try:
        return reference(kind)
    except NotLoadedError:
        why = f"the class {shown_type(kind)} would not be found again: define it at the top level of a module"
        raise Refused(why) from None


Writer = Callable[[Tagger, Any, int], Any]
# By package, which Flux does not import before a value needs it: gives the writer for a class of it.  `arrays` and
# `frames` add theirs.
FAMILIES: dict[str, Callable[[type], Writer | None]] = {
    "uuid": lambda kind: _uuid if kind is package("uuid").UUID else None,
    "zoneinfo": lambda kind: _zone if kind is package("zoneinfo").ZoneInfo else None,
}


def _why_refused(kind: type) -> str:
    for base in (str, int, float, list, dict, tuple, set, frozenset, bytes, bytearray, datetime, date, time, timedelta):
        if issubclass(kind, base):
            return f"a {shown_type(kind)} would come back as a plain {base.__name__}, its base"
    return f"a {shown_type(kind)} cannot be recorded"


@lru_cache(maxsize=1024)
def _writer_of(kind: type) -> Writer:
    plain = all(base.__flags__ & HEAP_TYPE or base is object for base in kind.__mro__)
    if issubclass(kind, BaseException):
        return lambda tagger, value, depth: tagger.error(value, depth)
    if issubclass(kind, Enum):
        return _enum
    family = kind.__module__.partition(".")[0]
    if family in FAMILIES and family in sys.modules and (writer := FAMILIES[family](kind)) is not None:
        return writer
    if issubclass(kind, pydantic.BaseModel):
        return _model
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _named
    if plain and (fields := getattr(kind, "__dataclass_fields__", None)) is not None:
        return _object(tuple(fields))
    if plain and (attributes := getattr(kind, "__attrs_attrs__", None)) is not None:
        return _object(tuple(attribute.name for attribute in attributes))
    return lambda tagger, value, depth: tagger.other(value, depth)


def _object(names: tuple[str, ...]) -> Writer:
    return lambda tagger, value, depth: {"~object": [class_of(value), tagger.parts(state_of(value, names), depth)]}


def _model(tagger: Tagger, value: "pydantic.BaseModel", depth: int) -> Any:
    extra, private = value.__pydantic_extra__, value.__pydantic_private__
    return {
        "~model": [
            class_of(value),
            tagger.parts(state_of_model(value), depth),
            sorted(value.__pydantic_fields_set__),
            None if extra is None else tagger.parts(extra, depth),
            None if private is None else tagger.parts(private, depth),
        ]
    }


def state_of_model(value: "pydantic.BaseModel") -> dict[str, Any]:
    """The fields of a pydantic model."""
    fields, held = getattr(type(value), "__pydantic_fields__", ()), value.__dict__  # BaseModel itself has none.
    return {name: held[name] for name in fields if name in held}


def _named(tagger: Tagger, value: Any, depth: int) -> Any:
    if getattr(value, "__dict__", None):
        raise Refused(f"a {shown_type(type(value))} with attributes of its own cannot be recorded")
    return {"~named": [class_of(value), tagger.sequence(list(value), depth)]}


def _enum(tagger: Tagger, value: Enum, depth: int) -> Any:
    if isinstance(value, Flag):
        return {"~flag": [class_of(value), tagger.part(".value", value.value, depth)]}
    if type(value).__members__.get(value.name) is not value:
        raise Refused(f"{shown(value)} is not a member of its Enum")
    return {"~enum": [class_of(value), value.name]}


def _text(_: Tagger, value: str, __: int) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Refused(
            f"{shown(value)} holds half a surrogate pair at {error.start}, which UTF-8 has no place for"
        ) from None
    return value


def _uuid(_: Tagger, value: "UUID", __: int) -> Any:
    return {"~UUID": value.hex}


def _zone(_: Tagger, value: "ZoneInfo", __: int) -> Any:
    if value.key is None:
        raise Refused("a ZoneInfo without a key cannot be found again")
    return {"~zone": value.key}


def _defaultdict(tagger: Tagger, value: defaultdict[Any, Any], depth: int) -> Any:
    factory = value.default_factory
    if factory not in FACTORIES:
        raise Refused(f"the factory {shown(factory)} of a defaultdict is not a builtin type")
    return {"~defaultdict": [factory and getattr(factory, "__name__", ""), tagger.pairs(value, depth)]}


def _bytes(_: Tagger, value: bytes | bytearray, __: int) -> Any:
    return {f"~{type(value).__name__}": b2a_base64(value, newline=False).decode("ascii")}


def _path(tagger: Tagger, value: Any, depth: int) -> Any:
    return {"~path": [type(value).__name__, tagger.tag(str(value), depth)]}


def _timezone(_: Tagger, value: timezone, __: int) -> Any:
    offset, *name = value.__getinitargs__()  # type: ignore[attr-defined]
    return {"~timezone": [offset.days, offset.seconds, offset.microseconds, *name]}


_WRITERS: dict[type, Writer] = {
    str: _text,
    int: lambda _, value, __: {"~int": hex(value)},
    float: lambda _, value, __: {"~float": repr(value)},
    complex: lambda tagger, value, __: {"~complex": [tagger.tag(value.real, 1), tagger.tag(value.imag, 1)]},
    bytes: _bytes,
    bytearray: _bytes,
    dict: Tagger.mapping,
    list: Tagger.sequence,
    tuple: lambda tagger, value, depth: {"~tuple": tagger.sequence(list(value), depth)},
    set: lambda tagger, value, depth: {"~set": tagger.members(value, depth)},
    frozenset: lambda tagger, value, depth: {"~frozenset": tagger.members(value, depth)},
    range: lambda tagger, value, __: {"~range": [tagger.tag(end, 1) for end in (value.start, value.stop, value.step)]},
    deque: lambda tagger, value, depth: {"~deque": [tagger.sequence(list(value), depth), value.maxlen]},
    OrderedDict: lambda tagger, value, depth: {"~OrderedDict": tagger.pairs(value, depth)},
    Counter: lambda tagger, value, depth: {"~Counter": tagger.pairs(value, depth)},
    defaultdict: _defaultdict,
    datetime: Tagger.moment,
    time: Tagger.moment,
    date: lambda _, value, __: {"~date": value.isoformat()},
    timedelta: lambda _, value, __: {"~timedelta": [value.days, value.seconds, value.microseconds]},
    timezone: _timezone,
    Decimal: lambda _, value, __: {"~Decimal": str(value)},
    PosixPath: _path,
    PurePosixPath: _path,
    WindowsPath: _path,
    PureWindowsPath: _path,
}
