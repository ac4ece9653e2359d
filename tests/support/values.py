"""Values of every kind that matter: those that come back exactly, and those that are refused."""

import array
import contextvars
import dataclasses
import enum
import fractions
import functools
import io
import ipaddress
import math
import os
import pathlib
import re
import socket
import struct
import sys
import threading
import types
import uuid
import weakref
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pydantic

from flux import serde

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    CRIMSON = "red"
    BLUE = ("b", 1)


class Level(str, enum.Enum):
    LOW = "low"


class Size(enum.IntEnum):
    BIG = 3


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Line:
    sku: str
    price: Decimal
    tags: set[str] = dataclasses.field(default_factory=set)
    total: float = dataclasses.field(init=False, default=0.0)
    note: dataclasses.InitVar[str] = ""

    def __post_init__(self, note: str) -> None:
        self.remark = note

    @cached_property
    def lock(self) -> Any:
        return threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    __y: int = 2
    child: "Point | None" = None


@dataclasses.dataclass
class Box(Generic[T]):
    item: T


@dataclasses.dataclass
class Shouting(str):
    loud: bool


class Pair(NamedTuple):
    left: Any
    right: Any = None


Legacy = namedtuple("Legacy", "a b")  # noqa: PYI024 - the older spelling is supported too.


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    id: int
    lines: tuple[Pair, ...] = ()
    when: datetime | None = None
    _seen: set[int] = pydantic.PrivateAttr(default_factory=set)

    @pydantic.computed_field
    @cached_property
    def double(self) -> int:
        return self.id * 2


class Page(pydantic.BaseModel, Generic[T]):
    item: T


class Registry(dict):
    pass


class Loud(str):
    pass


class Zone(tzinfo):
    pass


class Attribute(NamedTuple):
    name: str


class AttrsLike:
    """As attrs makes it: the package itself is not needed to read its classes."""

    __slots__ = ("_attrs_cached_hash", "a", "b")
    __attrs_attrs__ = (Attribute("a"), Attribute("b"))

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b, self._attrs_cached_hash = a, b, 12345

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttrsLike) and (self.a, self.b) == (other.a, other.b)

    __hash__ = None  # type: ignore[assignment]


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def chained() -> ValueError:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            error.add_note("a note")
            raise ValueError("second", {"x": (1, 2)}) from error
    except ValueError as error:
        return error


ROUND_TRIPS: dict[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "negative": -1,
    "2**53-1": 2**53 - 1,
    "2**53+1": 2**53 + 1,
    "2**64": 2**64,
    "700 digits": 10**700,
    "10**5000": 10**5000,
    "-10**5000": -(10**5000),
    "float": 0.1,
    "-0.0": -0.0,
    "smallest float": 5e-324,
    "largest float": sys.float_info.max,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "complex": complex(-0.0, math.inf),
    "empty text": "",
    "text": 'ä"\\\n\x7f\u2028😀',
    "nul": "a\0b",
    "looks tagged": '{"~tuple":[]}',
    "bytes": bytes(range(256)),
    "no bytes": b"",
    "bytearray": bytearray(b"\0\xff"),
    "list": [1, "a", None, 1.5, True, [2]],
    "empty list": [],
    "tuple": (1, (2, [3, ()])),
    "set": {1, "a", (2, 3)},
    "empty set": set(),
    "frozenset": frozenset({b"x", frozenset()}),
    "dict": {"b": 1, "a": {"c": [None]}},
    "int keys": {1: "a", -1: "b"},
    "mixed keys": {None: 1, (1, 2): 2, True: 3, "x": 4, 1.5: {}},
    "tag-like key": {"~tuple": [1]},
    "second key tag-like": {"a": 1, "~tuple": [1]},
    "deep tag-like key": {"a": [{"~": {"~set": 1}}]},
    "range": range(3, -9, -2),
    "long range": range(10**800),
    "deque": deque([1, (2,)], maxlen=3),
    "OrderedDict": OrderedDict([("b", 1), (2, (3,))]),
    "Counter": Counter("abca"),
    "defaultdict": defaultdict(list, {"a": [1]}),
    "defaultdict without": defaultdict(None, {1: 2}),
    "naive datetime": datetime(2024, 2, 29, 23, 59, 59, 999999),
    "utc datetime": datetime(1, 1, 1, tzinfo=UTC),
    "offset datetime": datetime(2024, 1, 1, tzinfo=timezone(-timedelta(hours=3, seconds=1, microseconds=5), "X")),
    "zoned datetime, second 2:30": datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    "date": date(9999, 12, 31),
    "time": time(1, 2, 3, 4, fold=1, tzinfo=UTC),
    "timedelta": -timedelta(days=999999, microseconds=1),
    "timezone": timezone(timedelta(minutes=-30)),
    "utc": UTC,
    "ZoneInfo": ZoneInfo("America/New_York"),
    "Decimal": Decimal("-1.2300E+999"),
    "Decimal NaN": Decimal("-sNaN12"),
    "Decimal -0": Decimal("-0.00"),
    "long Decimal": Decimal("1" * 6000),
    "UUID": uuid.UUID(int=7),
    "Path": pathlib.Path("/a b/../c"),
    "PureWindowsPath": pathlib.PureWindowsPath(r"C:\x\y"),
    "Enum": Colour.BLUE,
    "Enum alias": Colour.CRIMSON,
    "str Enum": Level.LOW,
    "IntEnum": Size.BIG,
    "Flag": Right.READ | Right.WRITE,
    "no Flag": Right(0),
    "Enum keys": {Colour.RED: 1, Level.LOW: 2},
    "dataclass": Line("s", Decimal("1.50"), {"b", "a"}, "n"),
    "frozen dataclass": Point(1, 3, Point(4)),
    "generic dataclass": Box[int](1),
    "NamedTuple": Pair(1, (2,)),
    "namedtuple": Legacy([1], None),
    "attrs": AttrsLike((1,), {2}),
    "model": Order(id=1, lines=(Pair(1),), when=datetime(2024, 1, 1), more=(1, 2)),
    "constructed model": Order.model_construct(id="not validated"),
    "generic model": Page[int](item=1),
    "nested generic model": Page[Page[Pair]](item=Page[Pair](item=Pair(1))),
    "100 levels": nested(100),
    "keys that look alike": {"1": 1, 1: 2, "None": 3, None: 4, "null": 5, "true": 6, "1.5": 7, 1.5: 8, b"1": 9},
    "two keys that are NaN": {math.nan: 1, float("nan"): 2},
    "every character": "".join(map(chr, [*range(0xD800), *range(0xE000, 0x3000), 0xFFFE, 0xFFFF, 0x10FFFF])),
    "zoned datetime, first 2:30": datetime(2024, 10, 27, 2, 30, fold=0, tzinfo=ZoneInfo("Europe/Berlin")),
    "datetime that never was": datetime(2024, 3, 31, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    "Decimal of another context": Decimal("9" * 60) + Decimal("1E-999999"),
    "error": chained(),
    "group of errors": ExceptionGroup("several", [ValueError("a", 1), KeyError("k")]),
    "error with attributes": OSError(2, "No such file", "a\0b"),
    "array": np.arange(6, dtype=">i2").reshape(2, 3),
    "array of structures": np.array([(1, math.nan)], dtype=[("a", "u1"), ("b", "f4")]),
    "number of numpy": np.float32(0.1),
    "moment of numpy": np.datetime64("2024-02-29T12:00:00.000000001"),
    "numbers of numpy in a dict": {np.int8(1): (np.float64("-0.0"), np.bool_(False))},
    "frame": pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.to_datetime(["2024-01-01", None])}),
    "series": pd.Series([0.1, math.nan], index=pd.date_range("2024", periods=2, name="day"), name=("s", 1)),
    "index": pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["k", None]),
    "moment of pandas": pd.Timestamp("2024-10-26 02:30:00.123456789", tz="Europe/Berlin"),
    "missing of pandas": [pd.NaT, pd.NA],
}
UTC_FILE = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + bytes(6) + b"UTC\0"
HELD: Any = []
HELD.append(HELD)
HELD_BY_NAME: Any = {"a": {}}
HELD_BY_NAME["a"]["b"] = HELD_BY_NAME
LINKED = Point(1)
object.__setattr__(LINKED, "child", LINKED)
REFUSED: dict[str, tuple[Any, str]] = {
    "lone surrogate": ("a\ud800", "value: 'a\\ud800' holds half a surrogate"),
    "lone surrogate inside": ({"a": ["\udfff"]}, 'value["a"][0]: '),
    "lone surrogate key": ({"a": {"\ud800": 1}}, 'value["a"]'),
    "path of undecodable bytes": (pathlib.Path(os.fsdecode(b"/\xff")), "value: "),
    "lock": ({"orders": [1, 2, 3, Box(threading.Lock())]}, 'value["orders"][3].item: a _thread.lock cannot be'),
    "generator": ((n for n in ()), "value: a generator"),
    "iterator": (iter([]), "value: a list_iterator"),
    "function": (len, "value: a builtin_function"),
    "class": ([int], "value[0]: a type"),
    "module": (math, "value: a module"),
    "object": (object(), "value: a object"),
    "dict subclass": (Registry(), "would come back as a plain dict"),
    "str subclass": ([Loud("x")], "value[0]: a "),
    "int subclass as key": ({type("Id", (int,), {})(1): 1}, "plain int"),
    "dataclass that is a str": (Shouting(True), "plain str"),
    "struct sequence": (os.stat("/"), "plain tuple"),
    "memoryview": (memoryview(b""), "value: a memoryview"),
    "dict view": ({}.keys(), "value: a dict_keys"),
    "mapping proxy": (types.MappingProxyType({}), "value: a mappingproxy"),
    "own tzinfo": (datetime(2024, 1, 1, tzinfo=Zone()), "value.tzinfo: "),
    "zone from a file": (ZoneInfo.from_file(io.BytesIO(UTC_FILE)), "without a key"),
    "defaultdict of own factory": (defaultdict(lambda: 1), "not a builtin type"),
    "tuple member": ({(1, object)}, "value member"),
    "model's part": (Order(id=1, extra=[print]), "value.extra[0]: "),
    "101 levels": (nested(101), "nests deeper than 100 levels"),
    "100,000 levels": (nested(100_000), "nests deeper than 100 levels"),
    "contains itself": (HELD, "or contains itself"),
    "dict that contains itself": (HELD_BY_NAME, "or contains itself"),
    "dataclass that contains itself": (LINKED, "or contains itself"),
    "100,000 tuples": (functools.reduce(lambda inner, _: (inner,), range(100_000), ()), "deeper than 100 levels"),
    "lambda": (lambda: None, "value: a function"),
    "partial": (functools.partial(print), "value: a functools.partial"),
    "lock as a value of a dict": ({1: threading.Lock()}, "value[1]: a _thread.lock"),
    "open file": (io.StringIO(), "value: a _io.StringIO"),
    "socket": ([socket.socket.__new__(socket.socket)], "value[0]: a socket.socket"),
    "pattern": (re.compile("x"), "value: a re.Pattern"),
    "weak reference": (weakref.ref(Loud), "value: a weakref.ReferenceType"),
    "context variable": (contextvars.ContextVar("x"), "value: a _contextvars.ContextVar"),
    "namespace": (types.SimpleNamespace(a=1), "value: a types.SimpleNamespace"),
    "fraction": (fractions.Fraction(1, 3), "value: a fractions.Fraction"),
    "address": (ipaddress.ip_address("::1"), "value: a ipaddress.IPv6Address"),
    "array of the standard library": (array.array("i", [1]), "value: a array.array"),
    "datetime subclass": (type("Mine", (datetime,), {})(2024, 1, 1), "plain datetime"),
    "bytes subclass": (type("Mine", (bytes,), {})(b"x"), "plain bytes"),
    "array of objects": (np.array([1, None]), "value: an array of dtype object"),
    "frame of objects": (pd.DataFrame({"a": [threading.Lock()]}), 'value["a"][0]: a _thread.lock'),
    "period of pandas": (pd.Period("2024"), "value: a pandas.Period"),
}


def canonical(value: Any) -> Any:
    """Equality that tells 1 from True, -0.0 from 0.0, and holds for NaN."""
    if isinstance(value, dict):
        order = [(canonical(k), canonical(v)) for k, v in value.items()]
        return type(value), order, getattr(value, "default_factory", None)
    if isinstance(value, set | frozenset):
        return type(value), sorted((canonical(v) for v in value), key=repr)
    if isinstance(value, list | tuple | deque):
        return type(value), [canonical(v) for v in value], getattr(value, "maxlen", None)
    if isinstance(value, int) and not isinstance(value, enum.Enum):
        return type(value), hex(value)
    if isinstance(value, pydantic.BaseModel):
        private = canonical(value.__pydantic_private__)
        return (
            type(value),
            canonical(dict(value)),
            sorted(value.model_fields_set),
            private,
            canonical(value.model_extra),
        )
    if isinstance(value, Decimal | range):
        return type(value), str(value) if isinstance(value, Decimal) else [hex(v) for v in (value.start, value.stop)]
    if dataclasses.is_dataclass(value):
        return type(value), [(f.name, canonical(getattr(value, f.name))) for f in dataclasses.fields(value)]
    if isinstance(value, AttrsLike):
        return AttrsLike, canonical(value.a), canonical(value.b)
    if isinstance(value, BaseException):
        chain = canonical(value.__cause__), canonical(value.__context__), getattr(value, "__notes__", None)
        return type(value), canonical(value.args), str(value), canonical(getattr(value, "exceptions", None)), chain
    if isinstance(value, np.ndarray | np.generic):
        return type(value), value.dtype.str, str(value.dtype), value.shape, value.tobytes(), value.strides
    if isinstance(value, pd.DataFrame | pd.Series | pd.Index):
        return type(value), serde.encode(value)  # Of which unit tests show that it tells all apart.
    fold = getattr(value, "fold", None), str(getattr(value, "tzinfo", None))
    return type(value), repr(value), fold
