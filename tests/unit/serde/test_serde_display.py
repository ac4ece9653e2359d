"""Anything can be shown as plain JSON."""

import dataclasses
import enum
import json
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pydantic
import pytest

from flux import serde


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: Any


class Pair(NamedTuple):
    a: Any


class Model(pydantic.BaseModel):
    x: Any


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({1: "a", None: 2, Colour.RED: 3, (1,): 4}, {"1": "a", "None": 2, "red": 3, "(1,)": 4}),
        (datetime(2024, 1, 2, tzinfo=UTC), "2024-01-02T00:00:00+00:00"),
        ([(1,), {2}], [[1], [2]]),
        (Point(Pair(Model(x=Colour.RED))), {"x": {"a": {"x": "red"}}}),
        (KeyError("k"), {"type": "KeyError", "message": "'k'"}),
        (b"abc", "<3 bytes: YWJj>"),
        (float("inf"), "inf"),
        ("\ud800", "\\ud800"),
        (10**700, hex(10**700)),
        (3 + 1j, "(3+1j)"),
        (Unspeakable(), "<Unspeakable instance>"),
        (True, True),
    ],
)
def test_a_value_is_shown_as_plain_json(value: Any, expected: Any) -> None:
    shown = serde.to_display(value)

    assert shown == expected
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


def test_what_contains_itself_can_be_shown() -> None:
    value: list[Any] = []
    value.append(value)

    assert json.dumps(serde.to_display(value))
