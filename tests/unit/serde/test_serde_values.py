"""Every value comes back exactly as it was, or is refused by name before anything is recorded."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux import serde
from flux.errors import CorruptedDatabaseError, NotFoundError, UnserializableValue
from support.values import (
    REFUSED,
    ROUND_TRIPS,
    Box,
    Colour,
    Level,
    Line,
    Loud,
    Order,
    Page,
    Pair,
    Point,
    Size,
    canonical,
)


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_value_comes_back_exactly(name: str) -> None:
    value = ROUND_TRIPS[name]

    data = serde.encode(value)

    assert canonical(serde.decode(data)) == canonical(value)
    assert serde.encode(serde.decode(data)) == data
    if name != "100 levels":
        assert canonical(serde.decode(serde.encode([{"a": value}]))) == canonical([{"a": value}])


@pytest.mark.parametrize(("length", "is_raw"), [(4095, False), (4096, True)])
def test_long_bytes_are_kept_as_they_are(length: int, is_raw: bool) -> None:  # noqa: FBT001 - a case.
    value = bytes(n % 251 for n in range(length))

    data = serde.encode(value)

    assert serde.decode(data) == value
    assert (data == b"b1" + value) is is_raw
    assert serde.display(data).startswith(f"<{length:,} bytes: ")


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
    data = serde.encode({"p": Point(1, 2), "c": Colour.RED}).replace(Point.__module__.encode(), b"gone")

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
    assert all(type(value) in serde.PLAIN for value in (None, True, 1, 1.5, "a", b"a"))
    assert not any(type(value) in serde.PLAIN for value in ((), [], Level.LOW, Size.BIG, Loud("x"), bytearray()))
