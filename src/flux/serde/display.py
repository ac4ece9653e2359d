"""Values as plain JSON data; this module is for people and programs that read, never for reading back."""

from base64 import b64encode
from collections.abc import Mapping
from datetime import date, datetime, time
from enum import Enum
from typing import Any

import pydantic

from flux.serde.codec import decode_for_display
from flux.serde.failures import FORMER_TYPE
from flux.serde.tagging import MAX_DEPTH, shown, state_of, state_of_model
from flux.serde.tracebacks import traceback_of


def to_display(value: object) -> Any:
    """A view of any value that `json.dumps` takes. It cannot fail.

    Example:
        >>> to_display({1: (ValueError("late"), b"abc")})
        {'1': [{'type': 'ValueError', 'message': 'late'}, '<3 bytes: YWJj>']}
    """
    return _view(value, MAX_DEPTH)


def display(data: bytes) -> Any:
    """The view of an encoded value; the classes in it need not be loaded.

    Raises:
        CorruptedDatabaseError: The bytes are damaged.
    """
    return to_display(decode_for_display(data))


def display_traceback(data: bytes) -> str:
    """The traceback of an encoded error, and of the chain that led to it; empty for any other value.

    Raises:
        CorruptedDatabaseError: The bytes are damaged.
    """
    error = decode_for_display(data)
    return traceback_of(error).rstrip() if isinstance(error, BaseException) else ""


def _view(value: Any, depth: int) -> Any:
    if depth <= 0:
        return shown(value)
    match value:
        case Enum():
            return _view(value.value, depth - 1)
        case None | bool():
            return value
        case str():
            return _text(value)
        case int():
            return int(value) if abs(value) < 1 << 2000 else hex(value)
        case float():
            return float(value) if value - value == 0 else repr(value)
        case bytes() | bytearray():
            start = b64encode(value[:24]).decode("ascii")
            return f"<{len(value):,} bytes: {start}{'…' if len(value) > 24 else ''}>"
        case datetime() | date() | time():
            return value.isoformat()
        case BaseException():
            former = str(value.__dict__.get(FORMER_TYPE) or type(value).__qualname__)
            return {"type": former.rpartition(":")[2], "message": _text(value)}
        case pydantic.BaseModel():
            return _mapping(state_of_model(value), depth)
        case Mapping():
            return _mapping(value, depth)
        case tuple() if (names := getattr(value, "_fields", None)) is not None:
            return _mapping(dict(zip(names, value, strict=False)), depth)
        case list() | tuple() | set() | frozenset():
            return [_view(item, depth - 1) for item in value]
        case _ if hasattr(type(value), "__dataclass_fields__") or hasattr(type(value), "__attrs_attrs__"):
            return _mapping(state_of(value), depth)
        case _ if type(value).__module__ == "numpy" and _holds_few_numbers(value):
            return _view(value.tolist(), depth - 1)
        case _:
            return _text(value)


def _holds_few_numbers(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return getattr(dtype, "kind", "") in set("biufc") and value.size <= 100


def _mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    return {_key(key): _view(item, depth - 1) for key, item in value.items()}


def _key(key: object) -> str:
    return _text(key.value if isinstance(key, Enum) else key)


def _text(value: object) -> str:
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a user's str.
        text = shown(value)
    return text.encode("utf-8", "backslashreplace").decode()
