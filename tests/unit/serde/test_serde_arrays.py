"""Arrays and scalars of numpy come back with the same type, shape, order and bits, or are refused."""

import json
import struct
import subprocess
import sys
import warnings
from base64 import b64decode, b64encode
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from flux import serde
from flux.errors import CorruptedDatabaseError, NotFoundError, UnserializableValue

STRUCTURED = np.array([(1, 2.5, "ä"), (-1, 0, "")], dtype=[("a", "i1"), ("b", ">f8"), ("c", "U3")])
ARRAYS: dict[str, np.ndarray] = {
    "floats": np.array([[0.1, -0.0, np.nan], [np.inf, 5e-324, 1]]),
    "order of Fortran": np.asfortranarray(np.arange(6, dtype="i2").reshape(2, 3)),
    "other byte order": np.arange(3, dtype=">u4"),
    "no dimension": np.array(3.5),
    "no item": np.empty((0, 3), "f2"),
    "every second, backwards": np.arange(10)[::-2],
    "booleans": np.array([True, False]),
    "complex": np.array([1 - 2j], "c8"),
    "text": np.array(["ä", "bcd", ""]),
    "bytes": np.array([b"a\0b", b""]),
    "raw": np.array([b"\0\1\2"], "V3"),
    "moments": np.array(["2024-01-01T00:00:00.000000001", "NaT"], "M8[ns]"),
    "days": np.array(["2024-02-29"], "M8[D]"),
    "time spans": np.array([1, -2], "m8[3s]"),
    "structured": STRUCTURED,
    "nested structure": np.zeros(2, dtype=[("a", [("x", "<i4"), ("y", "S2")], (2, 2)), ("ä", "?")]),
    "3,000 fields": np.zeros(1, dtype=[(f"f{n}", "i1") for n in range(3000)]),
}
NUMBERS: dict[str, Any] = {f"number {char}": np.dtype(char).type(1) for char in "?bhilqBHILQefdFD"}
SCALARS: dict[str, Any] = NUMBERS | {
    "not a number": np.float32("nan"),
    "minus zero": np.float64("-0.0"),
    "largest": np.uint64(2**64 - 1),
    "complex with a nan": np.complex64(complex(float("nan"), -0.0)),
    "text that ends in a zero": np.str_("a\0"),
    "bytes that end in a zero": np.bytes_(b"a\0"),
    "no text": np.str_(""),
    "moment": np.datetime64(5, "ns"),
    "no moment": np.datetime64("NaT", "s"),
    "time span": np.timedelta64(-5, "h"),
    "raw bytes": np.void(b"ab\0"),
    "record": STRUCTURED[0],
}
REFUSED: dict[str, tuple[Any, str]] = {
    "objects": (np.array([1, None]), r"value: an array of dtype object holds .* tolist\(\)"),
    "objects in a structure": ({"a": np.zeros(1, dtype=[("a", "O")])}, r'value\["a"\]: an array of dtype object'),
    "long double": ([np.zeros(1, "g")], r"value\[0\]: .*float128.* astype\(\)"),
    "long double in a structure": (np.zeros(1, dtype=[("a", "g")]), "cannot be recorded"),
    "long double deep in a structure": (np.zeros(1, [("a", [("b", "g")], (2,))]), "cannot be recorded"),
    "scalar long double": (np.longdouble(1), "cannot be recorded"),
    "text of any length": (np.array(["a"], np.dtypes.StringDType()), "StringDType"),
    "padding": (np.zeros(1, np.dtype([("a", "i1"), ("b", "f8")], align=True)), r"repack_fields\(\)"),
    "overlapping fields": (
        np.zeros(1, np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]})),
        "cannot be recorded",
    ),
    "type with metadata": (np.zeros(1, np.dtype("f8", metadata={"a": 1})), "cannot be recorded"),
    "records": (np.zeros(1, np.dtype((np.record, [("a", "i1")]))), "would come back as"),
    "masked": (np.ma.array([1, 2], mask=[0, 1]), "MaskedArray cannot be recorded"),
    "memory-mapped subclass": (np.zeros(1).view(type("Mine", (np.ndarray,), {})), "cannot be recorded"),
    "generator": (np.random.default_rng(), "cannot be recorded"),
    "dtype": (np.dtype("f8"), "cannot be recorded"),
}


def assert_same(value: Any, other: Any) -> None:
    assert type(other) is type(value)
    assert (other.dtype, other.dtype.str, other.shape) == (value.dtype, value.dtype.str, value.shape)
    if value.dtype.char not in "SU" or isinstance(value, np.ndarray):  # Their scalars drop zeros on the way.
        assert other.tobytes() == value.tobytes()


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_exactly(name: str) -> None:
    array = ARRAYS[name]

    data = serde.encode({"a": [array]})
    decoded = serde.decode(data)["a"][0]

    assert_same(array, decoded)
    assert decoded.flags.writeable
    assert serde.encode({"a": [decoded]}) == data


@pytest.mark.parametrize("name", ["floats", "order of Fortran"])
def test_the_order_in_memory_is_kept(name: str) -> None:
    decoded = serde.decode(serde.encode(ARRAYS[name]))

    assert decoded.flags.f_contiguous == ARRAYS[name].flags.f_contiguous


@pytest.mark.parametrize("name", SCALARS)
def test_a_scalar_comes_back_with_its_type_and_bits(name: str) -> None:
    scalar = SCALARS[name]

    data = serde.encode(scalar)
    decoded = serde.decode(data)

    assert_same(scalar, decoded)
    assert serde.encode(decoded) == data
    if isinstance(scalar, str | bytes):
        assert decoded[:] == scalar[:]


@settings(max_examples=150, deadline=None)
@given(numpy_st.arrays(
    numpy_st.scalar_dtypes() | numpy_st.array_dtypes(numpy_st.scalar_dtypes(), allow_subarrays=True),
    numpy_st.array_shapes(min_dims=0, min_side=0, max_side=3),
    elements={"allow_subnormal": False}, fill=st.nothing(),
))  # fmt: skip
def test_any_array_comes_back_exactly_or_is_refused(array: np.ndarray) -> None:
    try:
        data = serde.encode(array)
    except UnserializableValue:
        assert {"g", "G"} & {np.dtype(part).char for part in parts_of(array.dtype)}
        return

    decoded = serde.decode(data)

    assert_same(array, decoded)
    assert serde.encode(decoded) == data


def parts_of(dtype: np.dtype) -> list[np.dtype]:
    if dtype.names is not None:
        return [part for name in dtype.names for part in parts_of(dtype[name])]
    return [dtype.base] if dtype.base.names is None else parts_of(dtype.base)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_not_come_back_exactly_is_refused_with_the_ways_out(name: str) -> None:
    value, says = REFUSED[name]

    with pytest.raises(UnserializableValue, match=says):
        serde.encode(value)


def test_a_task_gets_a_copy_of_an_array() -> None:
    original: dict[str, object] = {"a": np.zeros(2)}

    copy: dict[str, Any] = serde.decode_arguments(serde.encode_arguments(original), original)
    copy["a"][0] = 5

    assert original["a"][0] == 0  # type: ignore[index]


def test_an_array_is_never_unpickled() -> None:
    file = BytesIO()
    with warnings.catch_warnings(action="ignore"):
        np.lib.format.write_array(file, np.array([Gadget()], dtype=object), version=(3, 0))

    with pytest.raises(CorruptedDatabaseError, match="allow_pickle"):
        serde.decode(b'j1{"~ndarray":"%s"}' % b64encode(file.getvalue()))


class Gadget:
    def __reduce__(self) -> Any:
        return pytest.fail, ("an array was unpickled",)


@pytest.mark.parametrize("tree", [
    {"~ndarray": ""}, {"~ndarray": "AAAA"}, {"~ndarray": 1}, {"~ndarray": "k05VTVBZAwA="},
    {"~numpy": ["load", "x"]}, {"~numpy": ["ndarray", [3]]}, {"~numpy": ["no_such", 1]}, {"~numpy": ["float64", "x"]},
    {"~numpy": ["", 1]}, {"~numpy": 1}, {"~numpy": ["testing", 1]},
])  # fmt: skip
def test_damaged_arrays_are_an_error_of_the_store(tree: Any) -> None:
    with pytest.raises(CorruptedDatabaseError):
        serde.decode(b"j1" + json.dumps(tree).encode())


def test_bytes_after_an_array_are_damage() -> None:
    data = b64decode(json.loads(serde.encode(np.zeros(1))[2:])["~ndarray"])

    with pytest.raises(CorruptedDatabaseError):
        serde.decode(b'j1{"~ndarray":"%s"}' % b64encode(data + b"\0"))


def test_small_arrays_are_shown_as_numbers_and_large_ones_in_short() -> None:
    assert serde.to_display(np.array([[1, 2.5]])) == [[1.0, 2.5]]
    assert serde.to_display([np.int64(3), np.float32("nan"), np.bool_(1)]) == [3, "nan", True]
    assert serde.to_display(np.arange(10**6)) == "[     0      1      2 ... 999997 999998 999999]"
    assert serde.to_display(ARRAYS["days"]) == "['2024-02-29']"


def test_without_numpy_a_stored_array_says_what_to_install_and_can_still_be_displayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = serde.encode({"a": np.zeros(500), "n": np.float64(1.5)})
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(NotFoundError, match="numpy is in a stored value.*pip install numpy"):
        serde.decode(data)
    assert serde.display(data) == {"a": "<ndarray>", "n": 1.5}


def test_importing_flux_and_encoding_plain_values_loads_none_of_the_packages() -> None:
    code = (
        "import sys, flux; from flux import serde; serde.decode(serde.encode({'a': [1, (2,)]}))\n"
        "try: serde.encode(type('Like', (), {'__module__': 'pandas.core'})())\n"
        "except flux.errors.UnserializableValue: print('refused')\n"
        "print(sorted({'numpy', 'pandas', 'pyarrow'} & {*sys.modules}))"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"refused\n[]\n"


def test_reading_an_array_loads_numpy() -> None:
    code = "import sys; from flux import serde; print(serde.decode(sys.stdin.buffer.read()).sum())"
    data = serde.encode(np.arange(4))

    assert subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True).stdout == b"6\n"


def test_the_recorded_form_of_an_array_is_fixed() -> None:
    """A replay compares the arguments of a call with the recorded bytes, also after an update of numpy."""
    data = serde.encode_arguments({"a": np.array([1, -2], "<i8")})

    header = "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }".ljust(115) + "\n"
    expected = b"\x93NUMPY\3\0" + struct.pack("<I", 116) + header.encode() + struct.pack("<2q", 1, -2)
    assert json.loads(data[2:]) == {"a": {"~ndarray": b64encode(expected).decode()}}
