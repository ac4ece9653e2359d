"""Errors as records and back; this module is for errors that always can be recorded and always can be read.

Errors that refer to each other (causes, group members, attributes) are one list of records that name each other by
index, so that shared ones are recorded once and circles end.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from json import loads
from types import GetSetDescriptorType, MemberDescriptorType, new_class
from typing import Any, NamedTuple

from flux.errors import ExecutionError
from flux.serde.classes import NotLoadedError, find, name_of
from flux.serde.tagging import HEAP_TYPE, Refused, Tagger, dump, shown, state_of
from flux.serde.tracebacks import RECORDED, own_traceback
from flux.serde.untagging import READERS, LenientUntagger

MAX_BYTES = 65_000  # Of all that is recorded of an error; 64 KiB with the rest of the event.
FORMER_TYPE = "_flux_type"  # In the dict of a plain ExecutionError: the class that could not be rebuilt.
_TEXT = "_flux_text"
_STR_FAILED = "<str() failed: "
_NOT_FIELDS = frozenset(("args", "exceptions", "message", "obj", "object"))  # Held by args, or beside the point.
_HIDDEN = frozenset((RECORDED, _TEXT, "inner_exception"))


class _Message:
    """`message` of a failure: the original class's own attribute of that frequent name, or else the text."""

    def __get__(self, error: "Failure | None", _owner: Any) -> Any:
        for base in error._flux_class.__mro__ if error is not None else ():
            if "message" in base.__dict__:
                found = base.__dict__["message"]
                return found.__get__(error, type(error)) if hasattr(found, "__get__") else found
        return str(error)


class Failure(ExecutionError):  # noqa: N818 - never seen by name.
    """What a task's failure is to a body: also an instance of the original class, by a class made for each.

    It has no layout and runs no code of the original class that could refuse: the text is the recorded one.
    """

    _flux_class: type[BaseException]
    __setattr__ = BaseException.__setattr__  # Frozen errors: contextlib sets `__traceback__` from Python.
    __delattr__ = BaseException.__delattr__
    args = BaseException.args
    message: Any = _Message()

    def __init_subclass__(cls, **_: Any) -> None:
        """Keep the original's own from running: it may be a registry, or ask for arguments."""

    def __str__(self) -> str:
        return str(self.__dict__.get(_TEXT, ""))

    def __repr__(self) -> str:
        try:
            return super().__repr__()
        except Exception:  # noqa: BLE001 - a user's repr, perhaps of attributes that were replaced.
            return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> Any:
        return _unpickled, (dump(error_tree(self)),)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return self.__reduce__()


class _GroupFailure(Failure):
    def derive(self, excs: Any) -> Any:
        """The group of a part of the members; `except*` and `split` use it."""
        return ExceptionGroup(_message_of(self), excs)


class _Limits(NamedTuple):
    text: int  # Characters of one text, bytes of one argument or attribute.
    parts: int  # Arguments or attributes of one error.
    errors: int


_LIMITS = (_Limits(24_000, 200, 64), _Limits(6_000, 50, 24), _Limits(1_500, 20, 8), _Limits(250, 4, 2))


def error_tree(
    error: BaseException, *, inner: BaseException | None = None, failure: bool = False, live: bool = True
) -> dict[str, Any]:
    """The tree for an error. It cannot fail: what has no codec is replaced by its repr, what is long is cut.

    Args:
        error: The error.
        inner: Its `inner_exception`, where that is not its own.
        failure: Read it as a `Failure`.
        live: Record tracebacks; without, equal errors have equal trees.
    """
    tree: dict[str, Any] = {}
    for limits in _LIMITS:
        try:
            tree = {"~error": _Graph(limits, live=live).records(error, inner, failure=failure)}
        except Exception:  # noqa: BLE001 - whatever a user's class may do, its failure is recorded.
            break
        if len(dump(tree).encode()) <= MAX_BYTES:
            return tree
    record = {"type": name_of(type(error)), "text": _Graph(_LIMITS[-1], live=live).cut(_text_of(error))}
    return {"~error": [record | ({"failure": True} if failure else {})]}


def failed(error: BaseException, inner: BaseException | None = None) -> dict[str, Any]:
    """The tree for the error of a task that failed."""
    return error_tree(error, inner=inner, failure=not isinstance(error, ExecutionError))


class _Graph(Tagger):
    def __init__(self, limits: _Limits, *, live: bool) -> None:
        super().__init__()
        self._limits = limits
        self._live = live
        self._errors: list[BaseException] = []
        self._places: dict[int, int] = {}

    def records(self, error: BaseException, inner: BaseException | None, *, failure: bool) -> list[dict[str, Any]]:
        """The records of an error and of all that it refers to; its own is the first."""
        if failure:
            self._errors.append(error)  # Not by its place: what it wraps is the error itself, as a record of its own.
        else:
            self._place(error)
        override = self._link("inner", inner)
        # The list grows while it is walked, by the errors that each one refers to.
        records = [self._record(each) for each in self._errors]
        records[0] |= override | ({"failure": True} if failure else {})
        return records

    def error(self, error: BaseException, _depth: int) -> Any:
        place = self._place(error)
        if place is None:
            raise Refused("one error too many")
        return {"~link": place}

    def _place(self, error: BaseException) -> int | None:
        place = self._places.get(id(error))
        if place is None and len(self._errors) < self._limits.errors:
            place = self._places[id(error)] = len(self._errors)
            self._errors.append(error)
        return place

    def _link(self, role: str, error: BaseException | None) -> dict[str, Any]:
        place = None if error is None else self._place(error)
        return {} if place is None else {role: place}

    def _record(self, error: BaseException) -> dict[str, Any]:
        kind = error._flux_class if isinstance(error, Failure) else type(error)
        text = _text_of(error)
        fields = dict(_fields_of(error))
        state = {name: item for name, item in state_of(error).items() if name not in _HIDDEN and name not in fields}
        record: dict[str, Any] = {
            "type": name_of(kind),
            "text": self.cut(text or kind.__name__),
            "args": [self._kept(item) for item in self._args(error, text)],
            "fields": self._attributes(fields),
            "state": self._attributes(state),
            "failure": isinstance(error, Failure),
            "suppress": error.__suppress_context__,
            "traceback": self.cut(own_traceback(error)) if self._live or RECORDED in error.__dict__ else "",
        }
        inner = error.inner_exception if isinstance(error, ExecutionError) else None
        links = self._link("cause", error.__cause__) | self._link("context", error.__context__)
        return {key: item for key, item in record.items() if item} | links | self._link("inner", inner)

    def _args(self, error: BaseException, text: str) -> list[Any]:
        if isinstance(error, BaseExceptionGroup):
            return [_message_of(error), list(error.exceptions)[: self._limits.errors // 2]]
        if isinstance(error, ExecutionError) and not isinstance(error, Failure) and not text:
            return [type(error).__name__]  # Never an empty message.
        args = BaseException.args.__get__(error)  # type: ignore[attr-defined]
        return list(args[: self._limits.parts])

    def _attributes(self, state: dict[str, Any]) -> dict[str, Any]:
        return {self.cut(name): self._kept(item) for name, item in islice(state.items(), self._limits.parts)}

    def _kept(self, value: Any) -> Any:
        try:
            tree = self.tag(value)
            if len(dump(tree).encode()) <= self._limits.text:
                return tree
        except Exception:  # noqa: BLE001, S110 - Refused, or anything that the attributes of a user's object do.
            pass
        if type(value) is bytes:
            return self.tag(value[: self._limits.text // 2])
        return self.cut(value if type(value) is str else shown(value))

    def cut(self, text: str) -> str:
        """A text of bounded length that UTF-8 can hold."""
        text = text.encode("utf-8", "backslashreplace").decode()
        excess = len(text) - self._limits.text
        if excess <= 0:
            return text
        head = self._limits.text // 4
        return f"{text[:head]}\n… {excess:,} characters left out …\n{text[head + excess :]}"


def _message_of(group: Any) -> Any:
    return BaseExceptionGroup.message.__get__(group)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failing:  # noqa: BLE001 - a user's str.
        return f"{_STR_FAILED}{type(failing).__name__}>"


def _fields_of(error: BaseException) -> Iterator[tuple[str, Any]]:
    # What errors keep in C (OSError.filename, ImportError.name) and in slots: args do not hold all of it.
    for base in type(error).__mro__:
        if base in {BaseException, object}:
            continue
        for name, field in base.__dict__.items():
            known = isinstance(field, MemberDescriptorType | GetSetDescriptorType)
            if known and name not in _NOT_FIELDS and not (name.startswith("__") and name.endswith("__")):
                with suppress(Exception):
                    yield name, getattr(error, name)


class _Restoring(LenientUntagger):
    def __init__(self, records: list[dict[str, Any]]) -> None:
        self._records = records
        self._restored: list[tuple[BaseException, BaseException | None] | None] = [None] * len(records)
        self._begun: set[int] = set()

    def first(self) -> BaseException:
        """The error of the first record, and all that it refers to, linked."""
        for place in range(len(self._records)):
            self._error(place)
        for record, restored in zip(self._records, self._restored, strict=True):
            if restored is not None:
                self._connect(record, *restored)
        return self._at(0)

    def read(self, tag: str, payload: Any) -> Any:
        return self._error(payload) if tag == "~link" else super().read(tag, payload)

    def _error(self, place: int) -> Any:
        if place in self._begun:
            restored = self._restored[place]
            # An error among its own arguments does not exist yet.
            return self._records[place]["text"] if restored is None else restored[0]
        self._begun.add(place)
        restored = self._restored[place] = self._restore(self._records[place])
        return restored[0]

    def _at(self, place: int) -> BaseException:
        restored = self._restored[place]
        if restored is None:
            raise LookupError(place)
        return restored[0]

    def _restore(self, record: dict[str, Any]) -> tuple[BaseException, BaseException | None]:
        args = tuple(self.items(record.get("args", [])))
        fields, state = self.values(record.get("fields", {})), self.values(record.get("state", {}))
        kind, text = _class_of(record["type"]), record["text"]
        if kind is None:
            return _plain(record, state), None
        original = _rebuilt(kind, args, fields, state)
        if original is not None and not _shows(original, text):
            original = None
        if not record.get("failure"):
            return (original if original is not None else _plain(record, state)), None
        dual = _failure_class(kind)
        error = None if dual is None else _rebuilt(dual, args, fields, {**state, _TEXT: text})
        return (error if error is not None else _plain(record, state)), original

    def _connect(self, record: dict[str, Any], error: BaseException, original: BaseException | None) -> None:
        for each in (error, original) if original is not None else (error,):
            for role, name in (("cause", "__cause__"), ("context", "__context__")):
                if role in record:
                    object.__setattr__(each, name, self._at(record[role]))
            object.__setattr__(each, "__suppress_context__", record.get("suppress", False))
            if "traceback" in record:
                each.__dict__[RECORDED] = record["traceback"]
        if isinstance(error, ExecutionError):
            inner = self._at(record["inner"]) if "inner" in record else original
            error.__dict__["inner_exception"] = inner


def restore(records: list[dict[str, Any]]) -> BaseException:
    """The error that records stand for.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: The records are damaged.
    """
    return _Restoring(records).first()


READERS["~error"] = lambda _, payload: restore(payload)


def _unpickled(text: str) -> BaseException:
    return restore(loads(text)["~error"])


def _class_of(name: str) -> Any:
    try:
        found = find(name)
    except NotLoadedError:
        return None
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _rebuilt(
    kind: type[BaseException], args: tuple[Any, ...], fields: Mapping[str, Any], state: Mapping[str, Any]
) -> BaseException | None:
    # Without a line of the class's own code: by the nearest class made in C, whose __init__ fills the C fields.
    base = next(each for each in kind.__mro__ if not each.__flags__ & HEAP_TYPE)
    try:
        try:
            error = base.__new__(kind, *args)
        except Exception:  # noqa: BLE001 - arguments that were replaced do not fit.
            error = BaseException.__new__(kind, *args)
        with suppress(Exception):
            base.__init__(error, *args)  # type: ignore[misc]
        BaseException.args.__set__(error, args)  # type: ignore[attr-defined]
        for name, item in fields.items():
            # A filename that is set to None shows in the text, one that is not set does not.
            if item is not None or getattr(error, name, None) is not None:
                with suppress(Exception):
                    object.__setattr__(error, name, item)
        error.__dict__.update(state)
    except Exception:  # noqa: BLE001 - the class refuses to be made, as pydantic's ValidationError does.
        return None
    return error


def _shows(error: BaseException, text: str) -> bool:
    # A str() that worked when it was recorded must not fail in an `except` of the body.
    return text.startswith(_STR_FAILED) or not _text_of(error).startswith(_STR_FAILED)


@lru_cache(maxsize=512)
def _failure_class(kind: type[BaseException]) -> type[BaseException] | None:
    if not issubclass(kind, Exception) or issubclass(kind, StopIteration | StopAsyncIteration):
        return None
    if issubclass(kind, ExecutionError):
        return kind
    body = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "_flux_class": kind,
    }
    first = _GroupFailure if issubclass(kind, BaseExceptionGroup) else Failure
    try:
        return new_class(kind.__name__, (first, kind), {}, lambda namespace: namespace.update(body))
    except Exception:  # noqa: BLE001 - a final class, a metaclass with a mind of its own.
        return None


def _plain(record: Mapping[str, Any], state: Mapping[str, Any]) -> ExecutionError:
    error = ExecutionError(record["text"])
    error.__dict__[FORMER_TYPE] = record["type"]
    if isinstance(state.get("__notes__"), list):
        error.__notes__ = state["__notes__"]
    return error
