"""Values as bytes and back; this module is for everything that a history stores.

The bytes name their codec and its version: `j1` is tagged JSON.
"""

from collections.abc import Callable, Mapping
from json import JSONDecoder
from json.encoder import encode_basestring
from typing import Any, NoReturn

from flux.errors import CorruptedDatabaseError, NotFoundError, UnserializableValue
from flux.serde.classes import NotLoadedError, find, name_of
from flux.serde.failures import error_tree, failed
from flux.serde.tagging import MAX_DEPTH, Refused, Tagger, dump
from flux.serde.untagging import LenientUntagger, Untagger

_PREFIX = b"j1"
_MARK = b'{"~'  # Cannot occur inside JSON text: a quote would be escaped.
_NAME_MARK = b'{"~name"'
_PLAIN = frozenset((type(None), bool, int, float, str, bytes))
_MAX_INT = 1 << 2000  # As in `tagging`.
_scan = JSONDecoder().raw_decode


def encode(value: object) -> bytes:
    """The bytes for a value of the closed list; equal values give equal bytes in every process.

    Args:
        value: None, bool, int, float, complex, str, bytes and bytearray; list, tuple, set, frozenset, dict,
            OrderedDict, Counter, defaultdict, deque, NamedTuple, range; datetime, date, time, timedelta,
            timezone, ZoneInfo; Decimal, UUID, paths, Enum members; dataclasses, attrs classes, pydantic
            models; errors. Exactly these types, nested up to 100 levels. It is not changed.

    Raises:
        UnserializableValue: A part of it is something else; the message names the path to it.

    Example:
        >>> encode({"x": (1, 2)})
        b'j1{"x":{"~tuple":[1,2]}}'
    """
    write = _SCALARS.get(type(value))
    if write is not None:
        data = write(value)
        if data is not None:
            return data
    return _encoded(value, "value", _VALUES, _CHECKED_VALUES)


def decode(data: bytes) -> Any:
    """The value that `encode` gave the bytes for.

    Raises:
        CorruptedDatabaseError: The bytes are damaged, or of a codec that this Flux does not know.
        NotFoundError: A class in it is not among the loaded modules; nothing is imported to find it.
    """
    if data[:2] != _PREFIX:
        raise CorruptedDatabaseError(
            f"A stored value begins with {bytes(data[:2])!r}, which no codec of this Flux does: it is damaged, or"
            " written by a newer Flux. Restore a backup, or read it with the Flux that wrote it."
        )
    return _decoded(data, _UNTAGGER)


def decode_for_display(data: bytes) -> Any:
    """As `decode`, but an object whose class is not loaded becomes a dict of its attributes.

    Raises:
        CorruptedDatabaseError: As `decode`.
    """
    return _decoded(data, _LENIENT) if data[:2] == _PREFIX else decode(data)


def encode_arguments(arguments: Mapping[str, object]) -> bytes:
    """As `encode`, for the arguments of a call: functions and classes are allowed, and count by qualified name.

    Raises:
        UnserializableValue: As `encode`; the path begins with the argument's name.
    """
    return _encoded(dict(arguments), "", _ARGUMENTS, _CHECKED_ARGUMENTS)


def decode_arguments(data: bytes, original: Mapping[str, object]) -> dict[str, object]:
    """The copy of the arguments that a task gets, so that what it does to them stays with it.

    Args:
        data: What `encode_arguments` gave for `original`.
        original: The arguments. One that holds a function or a class that cannot be found again by its name, a
            lambda for one, is passed on as it is.
    """
    if _NAME_MARK not in data:
        return decode(data)  # type: ignore[no-any-return]
    return {name: _copied(value) for name, value in original.items()}


def is_plain(value: object) -> bool:
    """Whether a value is an immutable scalar, which decoding would only make again."""
    return type(value) in _PLAIN


def encode_failure(error: BaseException, *, inner: BaseException | None = None) -> bytes:
    """The bytes for the error of a task that failed. It cannot fail itself.

    They decode to an error that is an `ExecutionError` and an instance of the original's class at once, or to a
    plain `ExecutionError` of the same text where no such class can be made. An `ExecutionError` is recorded as
    itself.

    Args:
        error: What the task raised.
        inner: The `inner_exception` to record; otherwise it is the original error.
    """
    return _PREFIX + dump(failed(error, inner)).encode()


class _ValueTagger(Tagger):
    def error(self, error: BaseException, _depth: int) -> Any:
        return error_tree(error)


class _ArgumentTagger(Tagger):
    def error(self, error: BaseException, _depth: int) -> Any:
        # Line numbers must not make the same call look like another one.
        return error_tree(error, live=False)

    def other(self, value: Any, depth: int) -> Any:
        if callable(value) and isinstance(getattr(value, "__qualname__", None), str):
            # `list[int]` has the name of `list`.
            return {"~name": repr(value) if hasattr(value, "__origin__") else name_of(value)}
        return super().other(value, depth)


class _Found(_ArgumentTagger):
    def other(self, value: Any, depth: int) -> Any:
        tree = super().other(value, depth)
        if find(tree["~name"]) is not value:
            raise NotLoadedError(tree["~name"])
        return tree


_VALUES, _CHECKED_VALUES = _ValueTagger(), _ValueTagger(check_text=True)
_ARGUMENTS, _CHECKED_ARGUMENTS = _ArgumentTagger(), _ArgumentTagger(check_text=True)
_FOUND, _UNTAGGER, _LENIENT = _Found(), Untagger(), LenientUntagger()


def _encoded(value: object, root: str, tagger: Tagger, checking: Tagger) -> bytes:
    try:
        return _PREFIX + dump(tagger.tag(value)).encode()
    except Refused as refused:
        _refuse(refused.path(root), refused.why)
    except UnicodeEncodeError:
        try:
            checking.tag(value)
        except Refused as refused:
            _refuse(refused.path(root), refused.why)
        _refuse(root, "a name in it holds half a surrogate pair")
    except RecursionError:
        _refuse(root, f"it nests too deeply for the stack that is left (at most {MAX_DEPTH} levels are recorded)")


def _refuse(path: str, why: str) -> NoReturn:
    raise UnserializableValue(
        f"{path}: {why}. Return a type that Flux records (None, numbers, text, bytes, collections, dates, Enum…), make"
        " it a dataclass or a pydantic model, or open it inside the task that uses it instead."
    ) from None


def _decoded(data: bytes, untagger: Untagger) -> Any:
    try:
        text = str(data[2:], "utf-8")
        value, end = _scan(text)
        if end != len(text):
            raise ValueError(f"text after the value at {end}")
        return untagger.untag(value) if _MARK in data else value
    except NotLoadedError as missing:
        raise NotFoundError(
            f"{missing.name} is in a stored value, but not loaded in this process: import the module that defines it,"
            " or put it back where it was."
        ) from None
    except RecursionError:
        raise CorruptedDatabaseError("A stored value nests deeper than any that Flux writes: it is damaged.") from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise CorruptedDatabaseError(f"A stored value cannot be read, it is damaged: {error}") from error


def _copied(value: object) -> Any:
    try:
        return _UNTAGGER.untag(_scan(dump(_FOUND.tag(value)))[0])
    except NotLoadedError:
        return value


def _str(value: Any) -> bytes | None:
    try:
        return b"j1" + encode_basestring(value).encode()
    except UnicodeEncodeError:
        return None


_SCALARS: dict[type, Callable[[Any], bytes | None]] = {
    str: _str,
    int: lambda value: b"j1%d" % value if -_MAX_INT < value < _MAX_INT else None,
    bool: lambda value: b"j1true" if value else b"j1false",
    type(None): lambda _: b"j1null",
    float: lambda value: b"j1%a" % value if value - value == 0 else None,
}
