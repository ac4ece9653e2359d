"""Values as bytes and back; this module is for everything that a history stores.

The bytes name their codec and its version: `j1` is tagged JSON, `b1` long bytes as they are, `p1` a signed pickle
(`pickled`).
"""

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from json import JSONDecoder
from json.encoder import encode_basestring
from types import ModuleType
from typing import Any, NoReturn

from flux.errors import CorruptedDatabaseError, NotFoundError, UnserializableValue
from flux.serde import arrays, frames  # noqa: F401 - they add their types.
from flux.serde.classes import NotLoadedError, find, name_of
from flux.serde.failures import error_tree, failed
from flux.serde.keys import PICKLED
from flux.serde.tagging import MAX_DEPTH, TAG, Refused, Tagger, dump
from flux.serde.untagging import DAMAGE, LenientUntagger, Untagger

_PREFIX, _BYTES_PREFIX = b"j1", b"b1"
RAW_BYTES = 4096  # From this length on bytes are kept as they are: as text they cost more to write than a disk does.
_MARK = b'{"~'  # Cannot occur inside JSON text: a quote would be escaped.
NAME_MARK = b'{"~name"'  # In encoded arguments: something in them counts by its name only.
PLAIN = frozenset((type(None), bool, int, float, str, bytes))  # Immutable: decoding would only make them again.
_MAX_INT = 1 << 2000  # As in `tagging`.
_scan = JSONDecoder().raw_decode


def encode(value: object, *, extra_levels: int = 0) -> bytes:
    """The bytes for a value of the closed list; equal values give equal bytes in every process.

    Args:
        value: None, bool, int, float, complex, str, bytes and bytearray; list, tuple, set, frozenset, dict,
            OrderedDict, Counter, defaultdict, deque, NamedTuple, range; datetime, date, time, timedelta,
            timezone, ZoneInfo; Decimal, UUID, paths, Enum members; dataclasses, attrs classes, pydantic
            models; errors; arrays and scalars of numpy; frames, series, indexes and times of pandas. Exactly these
            types, nested up to 100 levels. It is not changed.
        extra_levels: That it may nest deeper: what the engine puts around values that were taken before.

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
    return _encoded(value, "value", _VALUES, _CHECKED_VALUES, MAX_DEPTH + extra_levels)


def encode_pickled(value: object, *, extra_levels: int = 0) -> bytes:
    """As `encode`, but what has no codec is pickled, and signed with a key of the app: its class decides what is kept.

    Raises:
        UnserializableValue: It cannot be pickled either.
        SecretError: There is no key to sign with.
    """
    try:
        return encode(value, extra_levels=extra_levels)
    except UnserializableValue:
        try:
            return _pickled().write(value)  # type: ignore[no-any-return]
        except Refused as refused:
            _refuse("value", refused.why)


def encode_by_name(value: object) -> bytes:
    """As `encode`, for what is shown and never used again: what has no codec counts by the name of its class."""
    try:
        return encode(value)
    except UnserializableValue:
        return _encoded(value, "value", _BY_NAME, _BY_NAME, MAX_DEPTH)


def decode(data: bytes) -> Any:
    """The value that `encode` or `encode_pickled` gave the bytes for.

    Raises:
        CorruptedDatabaseError: The bytes are damaged, of a codec that this Flux does not know, or a pickle that is
            not signed with a key of the app.
        NotFoundError: A class in it is not among the loaded modules; nothing is imported to find it.
    """
    if data[:2] != _PREFIX:
        if data[:2] == PICKLED:
            return _pickled().read(data)
        if data[:2] == _BYTES_PREFIX:
            return data[2:]
        raise CorruptedDatabaseError(
            f"A stored value begins with {bytes(data[:2])!r}, which no codec of this Flux does: it is damaged, or"
            " written by a newer Flux. Restore a backup, or read it with the Flux that wrote it."
        )
    return _decoded(data, _UNTAGGER)


def decode_recorded(data: bytes) -> Any:
    """As `decode`, but an argument that is not found again by its name, a lambda for one, becomes that name."""
    return _decoded(data, _RECORDED) if data[:2] == _PREFIX else decode(data)


def decode_for_display(data: bytes) -> Any:
    """As `decode`, but an object whose class is not loaded becomes a dict of its attributes, and a pickle a text.

    Raises:
        CorruptedDatabaseError: As `decode`.
    """
    if data[:2] == PICKLED:
        return _pickled().shown(data)
    return _decoded(data, _LENIENT) if data[:2] == _PREFIX else decode(data)


def encode_arguments(arguments: Mapping[str, object]) -> bytes:
    """As `encode`, for the arguments of a call: functions and classes are allowed, and count by qualified name.

    Raises:
        UnserializableValue: As `encode`; the path begins with the argument's name.
    """
    try:
        held = arguments if isinstance(arguments, dict) else dict(arguments)
        return _PREFIX + dump(_ARGUMENTS.mapping(held, MAX_DEPTH)).encode()
    except (Refused, UnicodeEncodeError, RecursionError):  # Once more, to say where.
        return _encoded(dict(arguments), "", _ARGUMENTS, _CHECKED_ARGUMENTS, MAX_DEPTH + 1)


def encode_pickled_arguments(arguments: Mapping[str, object]) -> bytes:
    """As `encode_arguments`, but what has no codec counts by the qualified name of its class.

    Raises:
        UnserializableValue: An argument holds such a thing, and cannot be pickled.
    """
    try:
        return encode_arguments(arguments)
    except UnserializableValue:
        data = _encoded(dict(arguments), "", _BY_NAME, _BY_NAME, MAX_DEPTH + 1)
        decode_arguments(data, arguments)
        return data


def decode_arguments(data: bytes, original: Mapping[str, object]) -> dict[str, object]:
    """The copy of the arguments that a task gets, so that what it does to them stays with it.

    Args:
        data: What `encode_arguments` or `encode_pickled_arguments` gave for `original`.
        original: The arguments. One that holds a function or a class that cannot be found again by its name, a
            lambda for one, is passed on as it is.

    Raises:
        UnserializableValue: One holds something that has no codec, and cannot be pickled.
    """
    if NAME_MARK not in data:
        return decode(data)  # type: ignore[no-any-return]
    return {name: _copied(name, value) for name, value in original.items()}


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


def rewritten(data: bytes, change: Callable[[str], str]) -> bytes:
    """The bytes of a value, with all texts in it changed: what becomes of them can be decoded, whatever they were.

    A number, or a date, that `change` would change becomes the text that it gives.
    """
    if data[:2] == _BYTES_PREFIX:
        return _BYTES_PREFIX + _rewritten_bytes(data[2:], change)
    if data[:2] != _PREFIX:
        return data  # A signed pickle would not be one any more.
    return _PREFIX + dump(_rewritten(_scan(str(data[2:], "utf-8"))[0], change)).encode()


def is_text(data: bytes) -> bool:
    """Whether an encoded value is JSON, in which texts are escaped."""
    return data[:2] == _PREFIX


def _rewritten_bytes(data: bytes, change: Callable[[str], str]) -> bytes:
    return change(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def _rewritten(tree: Any, change: Callable[[str], str]) -> Any:
    match tree:
        case {"~bytes": str(text)} | {"~bytearray": str(text)} if len(tree) == 1:
            changed = _rewritten_bytes(a2b_base64(text), change)
            return {next(iter(tree)): b2a_base64(changed, newline=False).decode("ascii")}
        case str():
            return change(tree)
        case list():
            return [_rewritten(item, change) for item in tree]
        case dict():
            items = {k if k[:1] == TAG else change(k): _rewritten(item, change) for k, item in tree.items()}
            ((key, text),) = items.items() if len(items) == 1 else (("", ""),)
            # What stands for one value, as the digits of a Decimal do, would not be read any more.
            return text if key[:1] == TAG and type(text) is str and text != tree[key] else items
        case bool() | None:
            return tree
        case _:
            text = change(repr(tree))
            return text if text != repr(tree) else tree


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


class _ByName(_ArgumentTagger):
    def tag(self, value: Any, depth: int = MAX_DEPTH) -> Any:
        try:
            return super().tag(value, depth)
        except Refused:
            return {"~name": [name_of(type(value))]}  # A list: it is not itself what has that name.


class _Found(_ArgumentTagger):
    def other(self, value: Any, depth: int) -> Any:
        tree = super().other(value, depth)
        if find(tree["~name"]) is not value:
            raise NotLoadedError(tree["~name"])
        return tree


class _RecordedUntagger(Untagger):
    def read(self, tag: str, payload: Any) -> Any:
        try:
            return super().read(tag, payload)
        except NotLoadedError:
            if tag == "~name":
                return payload
            raise


_VALUES, _CHECKED_VALUES = _ValueTagger(), _ValueTagger(check_text=True)
_ARGUMENTS, _CHECKED_ARGUMENTS = _ArgumentTagger(), _ArgumentTagger(check_text=True)
_BY_NAME = _ByName(check_text=True)
_FOUND, _UNTAGGER, _RECORDED, _LENIENT = _Found(), Untagger(), _RecordedUntagger(), LenientUntagger()


def _pickled() -> ModuleType:
    """The module that pickles: few programs need it, and importing it takes a while."""
    from flux.serde import pickled

    return pickled


def _encoded(value: object, root: str, tagger: Tagger, checking: Tagger, levels: int) -> bytes:
    try:
        return _PREFIX + dump(tagger.tag(value, levels)).encode()
    except Refused as refused:
        _refuse(refused.path(root), refused.why)
    except UnicodeEncodeError:
        try:
            checking.tag(value, levels)
        except Refused as refused:
            _refuse(refused.path(root), refused.why)
        _refuse(root, "a name in it holds half a surrogate pair")
    except RecursionError:
        _refuse(root, f"it nests too deeply for the stack that is left (at most {MAX_DEPTH} levels are recorded)")


def _refuse(path: str, why: str) -> NoReturn:
    raise UnserializableValue(
        f"{path}: {why}. Return a type that Flux records (None, numbers, text, bytes, collections, dates, Enum…), make"
        " it a dataclass or a pydantic model, open it inside the task that uses it, or give that serializer='pickle'."
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
            f"{missing.name} is in a stored value, but not loaded in this process: {missing.advice}."
        ) from None
    except RecursionError:
        raise CorruptedDatabaseError("A stored value nests deeper than any that Flux writes: it is damaged.") from None
    except DAMAGE as error:
        raise CorruptedDatabaseError(f"A stored value cannot be read, it is damaged: {error}") from error


def _copied(name: str, value: object) -> Any:
    try:
        return _UNTAGGER.untag(_scan(dump(_FOUND.tag(value)))[0])
    except NotLoadedError:
        return value
    except Refused:
        try:
            return _pickled().copied(value)
        except Refused as refused:
            _refuse(name, refused.why)


def _str(value: Any) -> bytes | None:
    try:
        return b"j1" + encode_basestring(value).encode()
    except UnicodeEncodeError:
        return None


_SCALARS: dict[type, Callable[[Any], bytes | None]] = {
    str: _str,
    bytes: lambda value: b"b1" + value if len(value) >= RAW_BYTES else None,
    int: lambda value: b"j1%d" % value if -_MAX_INT < value < _MAX_INT else None,
    bool: lambda value: b"j1true" if value else b"j1false",
    type(None): lambda _: b"j1null",
    float: lambda value: b"j1%a" % value if value - value == 0 else None,
}
