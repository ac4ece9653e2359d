"""What is pandas' comes back equal, with the same types, indexes, names and frequencies, or is refused at once."""

import random
import re
import struct
import sys
from base64 import b64decode, b64encode
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from flux import serde
from flux.errors import CorruptedDatabaseError, NotFoundError, UnserializableValue
from flux.serde import frames

BERLIN = ZoneInfo("Europe/Berlin")
NAN = float("nan")


def objects(*items: Any) -> pd.Series:
    return pd.Series(list(items), dtype=object)


def with_attrs(value: Any) -> Any:
    value.attrs = {"unit": ("m", 2)}
    return value


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


FRAMES: dict[str, pd.DataFrame] = {
    "numbers, text, truth": frame(a=[1, 2], b=[1.5, NAN], c=["x", None], d=[True, False]),
    "small and large numbers": frame(a=np.array([2**64 - 1], "u8"), b=np.array([1], "f2"), c=[1 + 2j]),
    "objects": pd.DataFrame({"a": objects(1, "x", (1, 2), None, NAN, Decimal("1.10"), [1], [2], date(2024, 1, 1))}),
    "moments": frame(a=pd.to_datetime(["2024-01-01", None]), b=pd.to_timedelta([1, 2], unit="s")),
    "zoned moments": frame(a=pd.date_range("2024-10-27", periods=4, freq="h", tz=BERLIN)),
    "fixed zone": frame(a=pd.date_range("2024", periods=2, tz=timezone(timedelta(hours=1)))),
    "ordered categories": frame(a=pd.Categorical(["b", "a", None], categories=["b", "z", "a"], ordered=True)),
    "categories of numbers": frame(a=pd.Categorical([2, 1, 2], categories=[2, 1])),
    "nullable": frame(
        a=pd.array([1, None], "Int8"),
        b=pd.array([True, None], "boolean"),
        c=pd.array([1.5, None], "Float32"),
    ),
    "kinds of text": frame(a=pd.array(["x", None], "string[pyarrow]"), b=pd.array(["x", None], "string[python]")),
    "of Arrow": frame(
        a=pd.array([1, None], pd.ArrowDtype(pa.int16())),
        b=pd.array([[1], None], pd.ArrowDtype(pa.list_(pa.int8()))),
    ),
    "periods and intervals": frame(a=pd.period_range("2024-01", periods=2, freq="M"), b=pd.interval_range(0, 2)),
    "equal labels": pd.DataFrame([[1, "a"]], columns=["x", "x"]),
    "numbers as labels": pd.DataFrame(np.zeros((2, 3))),
    "mixed labels": pd.DataFrame([[1, 2, 3]], columns=["a", 1, None]),
    "levels of rows": pd.DataFrame(
        {"v": [1, 2, 3]}, index=pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["k", None])
    ),
    "levels of labels": pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
    "part of a larger one": frame(a=["x", "y", "z"], b=pd.Categorical(["p", "q", "q"])).iloc[1:],
    "nothing": pd.DataFrame(),
    "no columns": pd.DataFrame(index=[1, 2]),
    "no rows": frame(a=pd.Series([], dtype="i2"), b=pd.Series([], dtype="str")),
    "attributes": with_attrs(frame(a=[1])),
}
SERIES: dict[str, pd.Series] = {
    "named": pd.Series([1, 2], index=["a", "b"], name="n"),
    "named by a tuple": pd.Series([1.5], name=("a", 1)),
    "text as objects": pd.Series(["a", "b"], dtype=object),
    "empty": pd.Series([], dtype="f8"),
    "by moments": pd.Series(range(3), index=pd.date_range("2024", periods=3, freq="B", name="day")),
    "attributes": with_attrs(pd.Series([1])),
}
INDEXES: dict[str, pd.Index] = {
    "range": pd.RangeIndex(2, 9, 3, name=("a", 1)),
    "numbers": pd.Index([3, 1], dtype="u1"),
    "text": pd.Index(["a", "b"], name="n"),
    "objects": pd.Index([(1, 2), "a", None], dtype=object, tupleize_cols=False),
    "tuples": pd.Index([(1, 2), (3, 4)], tupleize_cols=False),
    "moments": pd.DatetimeIndex(["2024-01-05", "2024-01-01", "NaT"]),
    "every two hours": pd.date_range("2024-01-01", periods=4, freq="2h", tz="UTC"),
    "seconds": pd.timedelta_range("1s", periods=3),
    "quarters": pd.period_range("2024", periods=3, freq="Q"),
    "intervals": pd.interval_range(0, 3, closed="both"),
    "categories": pd.CategoricalIndex(["a", "b"], categories=["b", "a", "c"]),
    "levels": pd.MultiIndex.from_product([["a", "b"], pd.date_range("2024", periods=2)], names=["k", "day"]),
    "levels, some unused": pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])[:1],
}
TIMES: dict[str, Any] = {
    "nanoseconds": pd.Timestamp("2024-10-26 02:30:00.123456789", tz="Europe/Berlin"),
    "second 2:30": pd.Timestamp("2024-10-27 01:30", tz="UTC").tz_convert(BERLIN),
    "far away": pd.Timestamp("1500-01-01"),
    "of a datetime": pd.Timestamp(datetime(2024, 1, 1, 12, tzinfo=UTC)),
    "odd zone": pd.Timestamp(datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1, minutes=1), "X"))),
    "negative": pd.Timedelta(-5, "us"),
    "a nanosecond": pd.Timedelta(1, "ns"),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "an object without a codec": ({"x": frame(a=objects(1, object()))}, r'value\["x"\]\["a"\]\[1\]: a object'),
    "a part in attributes": (with_attrs(frame(a=[1])), r'value\.attrs\["x"\]: a object'),
    "sparse": (pd.Series(pd.arrays.SparseArray([0, 1])), "Sparse"),
    "frequency with holidays": (
        pd.date_range("2024", periods=4, freq=pd.offsets.CustomBusinessDay(holidays=["2024-01-02"])),
        "CustomBusinessDay",
    ),
    "no duplicate labels": (frame(a=[1]).set_flags(allows_duplicate_labels=False), "duplicate labels"),
    "subclass": (type("Mine", (pd.DataFrame,), {})({"a": [1]}), "cannot be recorded"),
    "period": (pd.Period("2024"), "Period cannot be recorded"),
    "bare array": (pd.array([1]), "IntegerArray cannot be recorded"),
    "grouping": (frame(a=[1]).groupby("a"), "cannot be recorded"),
    "long double": (pd.Series(np.zeros(1, "g")), "float128"),
}
REFUSED["a part in attributes"][0].attrs["x"] = object()


def back(value: Any) -> Any:
    """As it is decoded, inside something else; and it encodes alike again."""
    data = serde.encode([value])
    (decoded,) = serde.decode(data)
    assert serde.encode([decoded]) == data
    assert type(decoded) is type(value)
    return decoded


def assert_same_index(value: pd.Index, other: pd.Index) -> None:
    pd.testing.assert_index_equal(value, other, exact=True)
    assert value.identical(other)
    assert getattr(value, "freq", None) == getattr(other, "freq", None)
    assert [level.dtype for level in getattr(value, "levels", [])] == [
        level.dtype for level in getattr(other, "levels", [])
    ]


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_comes_back_exactly(name: str) -> None:
    value = FRAMES[name]

    decoded = back(value)

    pd.testing.assert_frame_equal(value, decoded, check_exact=True, check_freq=True)
    assert_same_index(value.index, decoded.index)
    assert_same_index(value.columns, decoded.columns)
    assert value.attrs == decoded.attrs
    for place in range(len(value.columns)):
        column, other = value.iloc[:, place], decoded.iloc[:, place]
        assert column.dtype == other.dtype
        assert [type(item) for item in column] == [type(item) for item in other]
        if column.dtype == "category":
            assert list(column.cat.categories) == list(other.cat.categories)


@pytest.mark.parametrize("name", SERIES)
def test_a_series_comes_back_exactly(name: str) -> None:
    value = SERIES[name]

    decoded = back(value)

    pd.testing.assert_series_equal(value, decoded, check_exact=True, check_freq=True)
    assert_same_index(value.index, decoded.index)
    assert (value.name, value.attrs) == (decoded.name, decoded.attrs)


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_comes_back_exactly(name: str) -> None:
    assert_same_index(INDEXES[name], back(INDEXES[name]))


@pytest.mark.parametrize("name", TIMES)
def test_a_time_comes_back_exactly(name: str) -> None:
    value = TIMES[name]

    decoded = back(value)

    assert (decoded, decoded.unit) == (value, value.unit)
    assert repr(getattr(decoded, "tz", None)) == repr(getattr(value, "tz", None))
    assert getattr(decoded, "fold", 0) == getattr(value, "fold", 0)


def test_what_is_missing_stays_the_one_object_that_it_is() -> None:
    nat, na = serde.decode(serde.encode([pd.NaT, pd.NA]))

    assert nat is pd.NaT
    assert na is pd.NA


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_not_come_back_equal_is_refused(name: str) -> None:
    value, says = REFUSED[name]

    with pytest.raises(UnserializableValue, match=says):
        serde.encode(value)


@pytest.mark.parametrize(
    ("reader", "value", "spoil"),
    [
        ("_read_arrow", SERIES["named"], lambda array: array[::-1]),
        ("_read_arrow", FRAMES["nullable"], lambda array: array.astype("Float64")),
        ("_read_index", FRAMES["numbers as labels"], lambda index: index.rename("z")),
        ("_read_index", INDEXES["every two hours"], lambda index: index._with_freq(None)),
        ("_read_values", SERIES["text as objects"], lambda values: values[::-1]),
        ("_read_time", TIMES["nanoseconds"], lambda moment: moment.floor("us")),
    ],
    ids=["other order", "other type", "other name", "no frequency", "other objects", "less precision"],
)
def test_a_value_that_would_come_back_changed_is_refused_before_it_is_recorded(
    reader: str, value: Any, spoil: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    serde.encode(value)
    read = getattr(frames, reader)
    monkeypatch.setattr(frames, reader, lambda *parts: spoil(read(*parts)))

    with pytest.raises(UnserializableValue, match="would come back"):
        serde.encode(value)


def test_functions_in_a_frame_are_refused_also_as_arguments() -> None:
    with pytest.raises(UnserializableValue, match="come back not at all"):
        serde.encode_arguments({"f": pd.DataFrame({"a": objects(lambda: 1)})})


def test_a_task_gets_a_copy_of_a_frame() -> None:
    original: dict[str, object] = {"f": frame(a=[1, 2])}

    copy: dict[str, Any] = serde.decode_arguments(serde.encode_arguments(original), original)
    copy["f"].loc[0, "a"] = 5

    assert original["f"].loc[0, "a"] == 1  # type: ignore[attr-defined]


def test_without_pyarrow_a_frame_is_refused_and_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(UnserializableValue, match=r'value\["f"\].*need pyarrow: install it, with .pip install pyarrow'):
        serde.encode({"f": FRAMES["nullable"]})


@pytest.mark.parametrize("missing", ["pandas", "pyarrow"])
def test_without_the_package_a_stored_frame_says_what_to_install_and_can_be_displayed(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = serde.encode({"f": frame(a=["x"]), "s": SERIES["named"], "i": INDEXES["text"]})
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(NotFoundError, match=f"{missing} is in a stored value.*pip install {missing}"):
        serde.decode(data)
    assert serde.display(data) == {"f": "<DataFrame>", "s": "<Series>", "i": "<Index>"}


def test_the_recorded_form_names_no_version() -> None:
    """A replay compares the arguments of a call with the recorded bytes, also after an update of pandas."""
    tree = serde.codec._scan(serde.encode(frame(a=["x"], b=pd.array([1], "Int8"))).decode()[2:])[0]

    parts = [b64decode(each[2]) for each in [*tree["~DataFrame"]["values"], tree["~DataFrame"]["columns"][1]]]
    for version in (pd.__version__, pa.__version__, "pandas", "pyarrow"):
        assert not any(version.encode() in part for part in parts)


BLOB = re.compile(r'"([A-Za-z0-9+/]{40,}={0,2})"')


def damaged(data: bytes, chance: random.Random) -> bytes:
    """With a few bytes changed in one of the arrays inside, or with it cut short."""
    text = data.decode()
    blob = chance.choice(list(BLOB.finditer(text)))
    raw = bytearray(b64decode(blob[1]))
    for _ in range(chance.choice([1, 1, 2, 8])):
        raw[chance.randrange(len(raw))] = chance.choice([0, 255, chance.randrange(256)])
    cut = raw[: chance.randrange(len(raw))] if chance.random() < 0.2 else raw
    return f"{text[: blob.start(1)]}{b64encode(cut).decode()}{text[blob.end(1) :]}".encode()


@pytest.mark.parametrize("seed", range(8))
def test_damaged_frames_are_an_error_of_the_store_or_another_value_and_never_crash(seed: int) -> None:
    chance = random.Random(seed)
    values = [serde.encode(value) for value in (FRAMES["numbers, text, truth"], *SERIES.values(), *INDEXES.values())]

    outcomes = []
    for _ in range(40):
        data = damaged(chance.choice([value for value in values if BLOB.search(value.decode())]), chance)
        try:
            serde.decode(data)
            outcomes.append("read")
        except (CorruptedDatabaseError, NotFoundError) as error:
            outcomes.append(type(error).__name__)

    assert "CorruptedDatabaseError" in outcomes


def test_text_that_points_outside_its_bytes_is_never_read() -> None:
    data = serde.encode(pd.Series(["ab", "c"])).decode()
    (blob,) = BLOB.finditer(data)
    raw, offsets = b64decode(blob[1]), struct.pack("<3q", 0, 2, 3)
    assert raw.count(offsets) == 1

    forged = raw.replace(offsets, struct.pack("<3q", 0, 1 << 20, 1 << 21))

    with pytest.raises(CorruptedDatabaseError):
        serde.decode(data.replace(blob[1], b64encode(forged).decode()).encode())


def test_what_pandas_has_is_displayed_as_text() -> None:
    assert serde.to_display(frame(a=[1])) == "   a\n0  1"
    assert serde.to_display(pd.Timestamp("2024-01-01")) == "2024-01-01T00:00:00"
    assert serde.to_display([pd.NaT, pd.NA]) == ["NaT", "<NA>"]
