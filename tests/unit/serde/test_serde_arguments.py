"""A task gets a copy of its arguments; functions and classes count by name."""

import dataclasses
import functools
import threading
from typing import Any

import pytest

from flux import serde
from flux.errors import UnserializableValue


@dataclasses.dataclass
class Item:
    name: str


def helper() -> None:
    pass


@functools.wraps(helper)
def replaced() -> None:
    pass


def test_arguments_come_back_as_a_copy() -> None:
    original: dict[str, object] = {"items": [Item("a")], "n": 1}

    copy: dict[str, Any] = serde.decode_arguments(serde.encode_arguments(original), original)

    assert copy == original
    assert copy["items"] is not original["items"]
    assert copy["items"][0] is not original["items"][0]  # type: ignore[index]


def test_functions_and_classes_count_by_name_and_are_themselves_in_the_copy() -> None:
    original: dict[str, object] = {"f": helper, "deep": [{"c": Item, "len": len, "list": list, "x": {1}}]}

    data = serde.encode_arguments(original)
    copy: dict[str, Any] = serde.decode_arguments(data, original)

    assert copy == original
    assert copy["deep"] is not original["deep"]
    assert f"{__name__}:helper".encode() in data
    assert b"builtins:len" in data


def test_generic_aliases_are_told_apart() -> None:
    original = {"as_type": list[int]}

    data = serde.encode_arguments(original)

    assert data != serde.encode_arguments({"as_type": list[str]})
    assert serde.decode_arguments(data, original) == original


def test_what_cannot_be_found_again_is_passed_on_unchanged() -> None:
    original: dict[str, object] = {
        "lambda": lambda: 1,
        "inside": [lambda: 2],
        "shadowed": replaced,
        "method": [Item("a").__repr__],
        "copied": [1],
    }

    copy = serde.decode_arguments(serde.encode_arguments(original), original)

    assert all(copy[name] is original[name] for name in ("lambda", "inside", "shadowed", "method"))
    assert copy["copied"] is not original["copied"]


def test_the_same_call_encodes_alike_wherever_its_errors_were_raised() -> None:
    def raised(text: str) -> ValueError:
        try:
            raise ValueError(text)
        except ValueError as error:
            return error

    assert serde.encode_arguments({"e": raised("a")}) == serde.encode_arguments({"e": ValueError("a")})


def test_a_refused_argument_is_named() -> None:
    with pytest.raises(UnserializableValue, match=r"^order\.name\[0\]: a _thread\.lock"):
        serde.encode_arguments({"order": Item([threading.Lock()])})  # type: ignore[arg-type]


def test_text_that_utf8_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(UnserializableValue, match=r"^a: "):
        serde.encode_arguments({"a": "\ud800", "f": helper})
