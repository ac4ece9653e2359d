"""Values against annotations; this module is for what comes from outside: inputs, resumes, signals.

Pydantic loads itself when one of its names is first asked for, so its names are asked for where they are used.
"""

import inspect
import sys
import typing
from collections.abc import Generator, Iterable, Iterator
from typing import Any, TypeVar, get_origin

import pydantic
import typing_extensions

from flux.errors import InvalidInputError

# Nothing is said, or pydantic would hand out an iterator in the value's place.
_OPEN = (inspect.Parameter.empty, Any, Generator, Iterable, Iterator)
_adapters: "dict[Any, pydantic.TypeAdapter[Any]]" = {}


def adapter(annotation: Any) -> "pydantic.TypeAdapter[Any]":
    """The pydantic adapter of an annotation, made once.

    An annotation that pydantic cannot handle is checked by `isinstance` if it is a class, and accepts everything
    if not.

    Example:
        >>> adapter(list[int]).json_schema()
        {'items': {'type': 'integer'}, 'type': 'array'}
    """
    try:
        known = _adapters.get(annotation)
    except TypeError:  # Not hashable: `Annotated` with a list in it.
        return _made(annotation)
    if known is None:
        known = _adapters[annotation] = _made(annotation)
    return known


def validate(annotation: Any, value: object) -> Any:
    """The value as its annotation wants it, by pydantic's lax rules: `"3"` for an `int` becomes 3.

    Raises:
        InvalidInputError: It does not fit; the message lists the places.

    Example:
        >>> validate(dict[str, int], {"a": "1"})
        {'a': 1}
    """
    try:
        return adapter(annotation).validate_python(value)
    except pydantic.ValidationError as error:
        places = "; ".join(f"{_place(each['loc'])}: {each['msg']}" for each in error.errors(include_url=False))
    raise InvalidInputError(places)


def _place(steps: tuple[int | str, ...]) -> str:
    return "input" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)


def _typed_dict(annotation: Any) -> Any:
    """The same, as pydantic wants it: before Python 3.12 it refuses those of the standard library."""
    hints = typing.get_type_hints(annotation, include_extras=True)
    fields = {
        name: hint if name in annotation.__required_keys__ else typing_extensions.NotRequired[hint]
        for name, hint in hints.items()
    }
    make: Any = typing_extensions.TypedDict
    return make(annotation.__name__, fields)


def _made(annotation: Any) -> "pydantic.TypeAdapter[Any]":
    if isinstance(annotation, TypeVar) or any(each in _OPEN for each in (annotation, get_origin(annotation))):
        return pydantic.TypeAdapter(Any)
    if sys.version_info < (3, 12) and typing.is_typeddict(annotation):
        annotation = _typed_dict(annotation)
    attempts: tuple[tuple[Any, pydantic.ConfigDict | None], ...] = (
        (annotation, pydantic.ConfigDict(arbitrary_types_allowed=True)),
        (annotation, None),  # A model and a dataclass have a configuration of their own.
        (pydantic.InstanceOf[annotation] if isinstance(annotation, type) else Any, None),  # type: ignore[misc]
    )
    for wanted, config in attempts:
        try:
            made = pydantic.TypeAdapter(wanted, config=config)
        except Exception:  # noqa: BLE001, S112 - classes of users take part in this, and may raise anything.
            continue
        if made.pydantic_complete:  # Not so with a forward reference.
            return made
    return pydantic.TypeAdapter(Any)
