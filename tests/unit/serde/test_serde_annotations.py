"""Values from outside fit their annotation, or the places where they do not are listed."""

import dataclasses
import inspect
import threading
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Protocol, TypeVar

import pydantic
import pytest
from typing_extensions import TypedDict  # pydantic asks for it before 3.12.

from flux import serde
from flux.errors import InvalidInputError

T = TypeVar("T")


class Order(pydantic.BaseModel):
    amount: int
    lines: list[int] = []


@dataclasses.dataclass
class Data:
    lock: Any
    amount: int


class Typed(TypedDict):
    a: int


class Shape(Protocol):
    def area(self) -> int: ...


class Plain:
    pass


@dataclasses.dataclass
class HoldsPlain:
    plain: Plain


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, "3", 3),
        (Order, {"amount": "1", "lines": ["2"]}, Order(amount=1, lines=[2])),
        (Data, {"lock": 1, "amount": "2"}, Data(1, 2)),
        (Typed, {"a": "1"}, {"a": 1}),
        (list[Order], [{"amount": 1}], [Order(amount=1)]),
        (int | None, None, None),
        (None, None, None),
        (Sequence[int], ["1"], [1]),
        (Annotated[int, pydantic.Field(gt=0), ["unhashable"]], "1", 1),
    ],
)
def test_a_value_becomes_what_its_annotation_says(annotation: Any, value: Any, expected: Any) -> None:
    assert serde.validate(annotation, value) == expected


@pytest.mark.parametrize(
    "annotation", [Any, T, inspect.Parameter.empty, object, "Missing", list["Missing"], Shape, Iterable[int]]
)
def test_what_says_nothing_accepts_everything(annotation: Any) -> None:
    value = [object()]

    assert serde.validate(annotation, value) is value or serde.validate(annotation, value) == value


def test_other_classes_are_checked_by_isinstance() -> None:
    plain = Plain()
    lock = threading.Lock()

    assert serde.validate(Plain, plain) is plain
    assert serde.validate(list[Plain], [plain]) == [plain]
    assert serde.validate(type(lock), lock) is lock
    assert serde.validate(HoldsPlain, HoldsPlain(plain)).plain is plain
    for annotation in (Plain, HoldsPlain, type(lock)):
        with pytest.raises(InvalidInputError):
            serde.validate(annotation, 1)


def test_a_mismatch_lists_the_places_without_urls() -> None:
    with pytest.raises(InvalidInputError) as refused:
        serde.validate(Order, {"amount": "x", "lines": [1, None]})

    assert str(refused.value) == (
        "input.amount: Input should be a valid integer, unable to parse string as an integer; "
        "input.lines[1]: Input should be a valid integer"
    )


def test_an_adapter_is_made_once() -> None:
    assert serde.adapter(list[int]) is serde.adapter(list[int])
