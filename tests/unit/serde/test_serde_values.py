"""Every value comes back exactly as it was, or is refused by name before anything is recorded."""

import dataclasses
import enum
import io
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import threading
import types
import uuid
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux import serde
from flux.errors import CorruptedDatabaseError, NotFoundError, UnserializableValue

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
}
UTC_FILE = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + bytes(6) + b"UTC\0"
HELD: Any = []
HELD.append(HELD)
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
    fold = getattr(value, "fold", None), str(getattr(value, "tzinfo", None))
    return type(value), repr(value), fold


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_value_comes_back_exactly(name: str) -> None:
    value = ROUND_TRIPS[name]

    data = serde.encode(value)

    assert canonical(serde.decode(data)) == canonical(value)
    assert serde.encode(serde.decode(data)) == data
    if name != "100 levels":
        assert canonical(serde.decode(serde.encode([{"a": value}]))) == canonical([{"a": value}])


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_without_a_codec_is_refused_with_its_path_and_the_ways_out(name: str) -> None:
    value, expected = REFUSED[name]

    with pytest.raises(UnserializableValue) as refused:
        serde.encode(value)

    assert expected in str(refused.value)
    assert "dataclass or a pydantic model" in str(refused.value)
    assert len(str(refused.value)) < 2000


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(), st.binary(), st.dates(),
    st.datetimes(timezones=st.none() | st.timezones()), st.times(), st.timedeltas(), st.uuids(),
    st.decimals().filter(lambda number: not number.is_snan()),  # No set can hold it.
    st.sampled_from(Colour), st.just("~tuple"), st.just("~"),
)  # fmt: skip
KEYS = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.builds(Pair, inner, inner)
        | st.builds(Box, inner)
        | st.builds(lambda x: Page[Any](item=x), inner)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_any_supported_value_comes_back_exactly_and_encodes_alike_again(value: Any) -> None:
    before = canonical(value)

    data = serde.encode(value)

    assert canonical(serde.decode(data)) == before
    assert canonical(value) == before
    assert serde.encode(serde.decode(data)) == data


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["~tuple", "~object", "~model", "~error", "~enum", "~datetime", "~zone", "~x", "~path", "~link"]),
    x, max_size=1)))  # fmt: skip
def test_hostile_text_is_read_or_refused_as_damaged(tree: Any) -> None:
    try:
        serde.decode(b"j1" + json.dumps(tree).encode("utf-8", "replace"))
    except (CorruptedDatabaseError, NotFoundError):
        pass


@pytest.mark.parametrize(
    "data",
    [b"", b"j", b"j2{}", b"\x80\x04", b"j1", b"j1{", b"j1{} ", b"j1\xff", b'j1{"~nope":1}', b'j1{"~tuple":5}',
     b'j1{"~int":"x"}', b'j1{"~path":["Popen","x"]}', b'j1{"~error":[]}', b'j1{"~link":0}', b'j1{"~set":[[]]}',
     b"j1" + b"[" * 100_000, b'j1{"~tuple":[' * 50_000, b"j1" + b'[{"~tuple":' * 400 + b"[]" + b"}]" * 400],
)  # fmt: skip
def test_damaged_bytes_are_an_error_of_the_store(data: bytes) -> None:
    with pytest.raises(CorruptedDatabaseError):
        serde.decode(data)


def test_reading_imports_nothing_and_calls_no_class_of_another_kind() -> None:
    for name in ("this:x", "subprocess:Popen", "builtins:eval", "os:system", "builtins:dict"):
        with pytest.raises(NotFoundError):
            serde.decode(f'j1{{"~object":["{name}",{{}}]}}'.encode())
    assert "this" not in sys.modules


def test_a_class_that_is_not_loaded_is_named_and_can_still_be_displayed() -> None:
    data = serde.encode({"p": Point(1, 2), "c": Colour.RED}).replace(__name__.encode(), b"gone")

    with pytest.raises(NotFoundError, match="gone:Point"):
        serde.decode(data)
    assert serde.display(data) == {"p": {"x": 1, "_Point__y": 2, "child": None}, "c": "RED"}


def test_classes_of_a_function_are_refused() -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    with pytest.raises(UnserializableValue, match="top level of a module"):
        serde.encode(Local(1))


def test_what_init_would_set_is_kept_and_what_a_cached_property_remembers_is_not() -> None:
    line = Line("s", Decimal(1), note="n")
    line.total = 3.5
    assert line.lock

    decoded = serde.decode(serde.encode(line))

    assert (decoded.remark, decoded.total) == ("n", 3.5)
    assert "lock" not in vars(decoded)


def test_private_attributes_extras_and_fields_set_of_a_model_are_kept() -> None:
    order = Order(id=1, more=2)
    order._seen.add(5)

    decoded = serde.decode(serde.encode(order))

    assert decoded == order
    assert (decoded._seen, decoded.more, decoded.model_fields_set) == ({5}, 2, {"id", "more"})


def test_equal_sets_give_equal_bytes_in_every_process() -> None:
    code = "from flux import serde; print(serde.encode({'s': {str(n) for n in range(50)} | {1, None}}))"

    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(outputs) == 1


def test_a_script_and_the_module_that_flux_run_makes_of_it_read_each_other(tmp_path: pathlib.Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(
        "import dataclasses, sys\n"
        "from flux import serde\n"
        "@dataclasses.dataclass\n"
        "class Order:\n    id: int\n"
        "if sys.argv[1:] == ['write']: sys.stdout.buffer.write(serde.encode(Order(1)))\n"
        "if sys.argv[1:] == ['read']: print(serde.decode(sys.stdin.buffer.read()))\n"
    )
    load = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import shop; serde = shop.serde; "

    def run(*arguments: str, data: bytes = b"") -> bytes:
        return subprocess.run([sys.executable, *arguments], input=data, capture_output=True, check=True).stdout

    written = run(str(script), "write")
    assert written == b'j1{"~object":["shop:Order",{"id":1}]}'
    assert run("-c", load + "sys.stdout.buffer.write(serde.encode(shop.Order(1)))") == written
    assert run("-c", load + "print(serde.decode(sys.stdin.buffer.read()))", data=written) == b"Order(id=1)\n"
    assert run(str(script), "read", data=written) == b"Order(id=1)\n"


def test_only_scalars_that_nothing_can_change_are_plain() -> None:
    assert all(serde.is_plain(value) for value in (None, True, 1, 1.5, "a", b"a"))
    assert not any(serde.is_plain(value) for value in ((), [], Level.LOW, Size.BIG, Loud("x"), bytearray()))
