"""An error can always be recorded and always be read; what a body catches is of the class that the task raised."""

import abc
import asyncio
import concurrent.futures
import copy
import dataclasses
import decimal
import json
import pickle
import socket
import sqlite3
import ssl
import subprocess
import threading
import traceback
import urllib.error
import zipfile
from collections.abc import Callable
from typing import Any, NoReturn

import pydantic
import pytest

from flux import serde
from flux.errors import ExecutionError, ExecutionTimeoutError, InvalidInputError, RetryError


class Req(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"code {code}")
        self.code, self.detail = code, detail


class NoSuper(Exception):
    def __init__(self, code: int) -> None:
        self.code = code

    def __str__(self) -> str:
        return f"NoSuper {self.code}"


class Slots(Exception):
    __slots__ = ("__hidden", "a", "b")

    def __init__(self, a: int) -> None:
        self.a, self.__hidden = a, 5


class New(Exception):
    def __new__(cls, a: int, b: int, *, c: int = 1) -> "New":
        error = super().__new__(cls, a)
        error.b = b
        return error

    def __init__(self, *a: Any, **k: Any) -> None:
        pass


class Raising(Exception):
    def __init__(self) -> None:
        raise RuntimeError("this constructor must not run")


class BadStr(Exception):
    def __str__(self) -> str:
        return self.missing  # type: ignore[attr-defined,no-any-return]

    __repr__ = __str__


class Frozen(Exception):
    def __init__(self, x: int) -> None:
        self.__dict__["x"] = x

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("frozen")


class Meta(type):
    pass


class WithMeta(Exception, metaclass=Meta):
    pass


class Abstract(Exception, abc.ABC):
    @abc.abstractmethod
    def never(self) -> None: ...


class Registered(Exception):
    registry: list[type] = []

    def __init_subclass__(cls, *, code: int, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        cls.registry.append(cls)


class Stubborn(type):
    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> "Stubborn":
        if name == "Final" and any(isinstance(base, Stubborn) for base in bases):
            raise TypeError("final")
        return super().__new__(mcs, name, bases, namespace)


class Final(Exception, metaclass=Stubborn):
    pass


class Subclassed(OSError):
    def __init__(self, path: str, extra: int) -> None:
        super().__init__(2, "gone", path)
        self.extra = extra


class MyGroup(ExceptionGroup[Exception]):
    def __new__(cls, excs: list[Exception]) -> "MyGroup":
        return super().__new__(cls, "my", excs)

    def derive(self, excs: Any) -> "MyGroup":
        return MyGroup(excs)


class PropertyArgs(Exception):
    @property
    def args(self) -> tuple[int]:  # type: ignore[override]
        return (1,)


class Both(ValueError, KeyError):
    pass


class WithMessage(Exception):
    def __init__(self, message: str, lock: Any = None) -> None:
        super().__init__(f"[E1] {message}")
        self.message, self.lock = message, lock


class Response:
    status = 404

    def __repr__(self) -> str:
        return f"<Response {self.status}> at 0x7fff{id(self):x}"


class HTTPError(Exception):
    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response

    def __str__(self) -> str:
        return f"HTTP {self.response.status}"


@dataclasses.dataclass
class DataError(Exception):
    a: int
    b: str = "x"


@dataclasses.dataclass(frozen=True)
class FrozenDataError(Exception):
    a: int


class Model(pydantic.BaseModel):
    x: int


class OwnFailure(ExecutionError):
    def __init__(self, code: int) -> None:
        super().__init__(f"own {code}")
        self.code = code


def caught(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> BaseException:
    try:
        call(*arguments, **keywords)
    except BaseException as error:  # noqa: BLE001
        return error
    raise AssertionError("nothing was raised")


def errors() -> list[BaseException]:
    return [
        caught(open, "/nope"),
        caught(int, "x"),
        caught({}.__getitem__, "k"),
        caught(b"\xff".decode),
        caught("é".encode, "ascii"),
        caught(compile, "a b", "f", "exec"),
        caught(compile, "if 1:\nx", "f", "exec"),
        caught(lambda: None.foo),  # type: ignore[attr-defined]
        caught(lambda: undefined_name),  # type: ignore[name-defined]  # noqa: F821
        caught(__import__, "nope_x"),
        caught(json.loads, "{"),
        caught(subprocess.run, ["false"], check=True),
        caught(sqlite3.connect(":memory:").execute, "x"),
        ExceptionGroup("g", [ValueError(1), OSError(2, "x")]),
        ExceptionGroup("outer", [ExceptionGroup("inner", [Req(1, detail="d")]), KeyError("k")]),
        urllib.error.HTTPError("u", 404, "nf", {}, None),  # type: ignore[arg-type]
        subprocess.TimeoutExpired(["sleep"], 1.5, b"out"),
        socket.gaierror(-2, "name"),
        TimeoutError(),
        asyncio.IncompleteReadError(b"ab", 5),
        KeyError(),
        KeyError("a", 1),
        ValueError(),
        Exception("x"),
        UnicodeTranslateError("a", 0, 1, "r"),
        OSError("one"),
        BlockingIOError(11, "b", 3),
        decimal.InvalidOperation("d"),
        concurrent.futures.BrokenExecutor("x"),
        zipfile.BadZipFile("z"),
        ssl.SSLError(1, "ssl"),
        AssertionError("a", 2),
        Req(5, detail="d"),
        NoSuper(7),
        Slots(1),
        New(1, 2),
        Raising.__new__(Raising, "made otherwise"),
        BadStr("x"),
        Frozen(3),
        WithMeta("m"),
        Abstract("a"),
        Registered("i"),
        Subclassed("/p", 9),
        MyGroup([ValueError(1)]),
        PropertyArgs("p"),
        Both("b"),
        WithMessage("m"),
        DataError(1),
        FrozenDataError(2),
        InvalidInputError("bad"),
    ]


def plain_errors() -> list[BaseException]:
    return [
        StopIteration(3),
        StopAsyncIteration("s"),
        asyncio.CancelledError("c"),
        GeneratorExit("g"),
        SystemExit(3),
        KeyboardInterrupt(),
        BaseExceptionGroup("bg", [SystemExit(1)]),
        Final("f"),
    ]


def text_of(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except AttributeError:
        return "<str() failed: AttributeError>"


def attributes(error: BaseException) -> dict[str, str]:
    names = {name for name in dir(error) if not name.startswith("_")} - {"inner_exception", "obj", "add_note", "args"}
    found = {}
    for name in names:
        try:
            value = getattr(error, name)
        except AttributeError:
            continue
        if not callable(value) and name not in {"fp", "file"}:
            found[name] = repr(value)
    return found


@pytest.mark.parametrize("error", errors(), ids=lambda e: type(e).__name__)
def test_a_failure_is_an_execution_error_and_of_the_original_class(error: BaseException) -> None:
    failure = serde.decode(serde.encode_failure(error))

    assert isinstance(failure, ExecutionError)
    assert isinstance(failure, type(error))
    assert type(failure).__qualname__ == type(error).__qualname__
    assert str(failure) == text_of(error)
    assert type(failure.inner_exception) is type(error)
    assert attributes(error).items() <= attributes(failure).items()
    assert traceback.format_exception(failure)
    assert text_of(error) in serde.traceback_of(failure) or type(error) in {BadStr, SyntaxError, IndentationError}
    assert repr(failure)


@pytest.mark.parametrize("error", errors(), ids=lambda e: type(e).__name__)
def test_a_failure_survives_being_raised_awaited_pickled_copied_and_recorded_again(error: BaseException) -> None:
    failure = serde.decode(serde.encode_failure(error))

    async def wait() -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(failure)
        await future

    assert caught(asyncio.run, wait()) is failure
    for other in (
        pickle.loads(pickle.dumps(failure)),
        copy.copy(failure),
        serde.decode(serde.encode(failure)),
        serde.decode(serde.encode_failure(failure)),
    ):
        assert isinstance(other, type(error))
        assert isinstance(other, ExecutionError)
        assert str(other) == str(failure)
        assert type(other.inner_exception) is type(error)
        assert serde.traceback_of(other) == serde.traceback_of(failure)
    assert serde.encode(serde.decode(serde.encode(failure))) == serde.encode(failure)


@pytest.mark.parametrize("error", errors() + plain_errors(), ids=lambda e: type(e).__name__)
def test_an_error_as_a_value_comes_back_as_its_own_class(error: BaseException) -> None:
    (decoded,) = serde.decode(serde.encode([error]))

    assert type(decoded) is type(error)
    assert attributes(decoded) == attributes(error)
    assert serde.encode([decoded]) == serde.encode([serde.decode(serde.encode(decoded))])


@pytest.mark.parametrize("error", plain_errors(), ids=lambda e: type(e).__name__)
def test_control_flow_and_final_classes_fail_as_plain_execution_errors(error: BaseException) -> None:
    failure = serde.decode(serde.encode_failure(error))

    assert type(failure) is ExecutionError
    assert str(failure) == text_of(error)
    assert type(failure.inner_exception) is type(error)


def test_an_error_whose_class_cannot_be_made_keeps_its_text_and_type_name() -> None:
    class Local(Exception):
        pass

    for error in (caught(Model, x="q"), Local("local")):
        for decoded in (serde.decode(serde.encode_failure(error)), serde.decode(serde.encode(error))):
            assert type(decoded) is ExecutionError
            assert str(decoded) == str(error)
            assert decoded.inner_exception is None
            assert serde.to_display(decoded) == {"type": type(error).__qualname__.split(":")[-1], "message": str(error)}


def test_the_classes_of_failures_do_not_run_the_originals_hooks() -> None:
    Registered.registry.clear()

    serde.decode(serde.encode_failure(Registered("x")))

    assert Registered.registry == []


def test_execution_errors_are_recorded_as_themselves() -> None:
    last = ValueError("last")
    timeout = ExecutionTimeoutError("took 5 s")
    retry = RetryError("3 attempts", inner_exception=last)

    for error in (timeout, retry, OwnFailure(3)):
        failure = serde.decode(serde.encode_failure(error))
        assert type(failure) is type(error)
        assert str(failure) == str(error)
    assert str(serde.decode(serde.encode_failure(retry)).inner_exception) == "last"
    assert str(serde.decode(serde.encode_failure(timeout, inner=retry)).inner_exception.inner_exception) == "last"
    assert serde.decode(serde.encode_failure(timeout)).inner_exception is None


def test_a_message_is_never_empty() -> None:
    for error in (ValueError(), ExecutionError(), RetryError(""), asyncio.CancelledError()):
        assert str(serde.decode(serde.encode_failure(error))) == type(error).__name__


def test_the_given_inner_exception_is_recorded_and_shared_errors_stay_shared() -> None:
    error = KeyError("k")
    inner = RetryError("3 attempts", inner_exception=error)
    inner.__cause__ = error

    failure = serde.decode(serde.encode_failure(error, inner=inner))

    assert isinstance(failure, KeyError)
    assert type(failure.inner_exception) is RetryError
    assert failure.inner_exception.inner_exception is failure.inner_exception.__cause__


def test_causes_contexts_and_notes_are_kept() -> None:
    def fail() -> None:
        try:
            try:
                raise OSError(2, "gone", "/p")
            except OSError:
                raise Req(1, detail="d") from None
        except Req as cause:
            error = ValueError("late")
            error.add_note("seen on Monday")
            raise error from cause

    error = caught(fail)
    for decoded in (serde.decode(serde.encode(error)), serde.decode(serde.encode_failure(error))):
        cause = decoded.__cause__
        assert decoded.__notes__ == ["seen on Monday"]
        assert (type(cause), cause.detail, cause.__suppress_context__) == (Req, "d", True)
        assert cause.__context__.filename == "/p"
        assert serde.traceback_of(decoded) == serde.traceback_of(error)
        assert "direct cause" in serde.traceback_of(decoded)
        assert "Req: code 1" in serde.traceback_of(decoded)


def test_errors_that_refer_to_themselves_end() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    first.args = ("a", first, [second])
    first.me = first  # type: ignore[attr-defined]

    decoded = serde.decode(serde.encode(first))

    assert decoded.__context__.__context__ is decoded
    assert decoded.args[2][0] is decoded.__context__
    assert serde.traceback_of(decoded)


def test_parts_without_a_codec_are_replaced_by_their_repr() -> None:
    error = WithMessage("m", threading.Lock())
    error.args = ("\ud800", threading.Lock(), lambda: 1)

    failure = serde.decode(serde.encode_failure(error))

    assert failure.message == "m"
    assert failure.lock.startswith("<unlocked _thread.lock object")
    assert failure.args[0] == "\\ud800"
    assert " 0x" not in failure.args[1]


def test_an_error_that_could_not_show_itself_any_more_becomes_a_plain_one() -> None:
    error = HTTPError(Response())

    failure, value = serde.decode(serde.encode_failure(error)), serde.decode(serde.encode(error))

    assert isinstance(failure, HTTPError)
    assert str(failure) == "HTTP 404"
    assert failure.inner_exception is None
    assert (type(value), str(value)) == (ExecutionError, "HTTP 404")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x" * 10_000_000),
        ValueError(b"x" * 10_000_000, ["y" * 1_000_000] * 5),
        ValueError(*range(100_000)),
        ExceptionGroup("g", [ValueError("é" * 5_000, n) for n in range(1_000)]),
        UnicodeDecodeError("utf-8", b"\xff" * 1_000_000, 0, 1, "bad"),
        ValueError("\x00" * 100_000),
        Req(1, detail="d" * 1_000_000),
    ],
    ids=lambda e: type(e).__name__,
)
def test_an_error_takes_64_kib_at_most_and_still_is_of_its_class(error: Exception) -> None:
    for number in range(300):
        setattr(error, f"attribute_{number}", "\ud800é" * 1000)
    for _ in range(200):
        error.__cause__ = copy.copy(error.__cause__) or ValueError("c" * 10_000)
    for data in (serde.encode_failure(error), serde.encode(error)):
        assert len(data) <= 65_536
        decoded = serde.decode(data)
        assert isinstance(decoded, type(error))
        assert str(decoded)


def test_what_is_left_out_of_a_long_text_is_said() -> None:
    assert "characters left out" in str(serde.decode(serde.encode_failure(ValueError("x" * 100_000))))


def test_a_deep_recursion_and_a_long_chain_are_recorded() -> None:
    def deeper() -> None:
        deeper()

    error: BaseException = caught(deeper)
    for number in range(5_000):
        following = ValueError(number)
        following.__context__ = error
        error = following

    decoded = serde.decode(serde.encode_failure(error))

    assert isinstance(decoded, ValueError)
    assert decoded.__context__.args == (4998,)


def test_an_error_with_a_value_of_a_class_that_is_gone_still_loads() -> None:
    data = serde.encode_failure(ValueError("v", DataError(1), Model(x=1))).replace(__name__.encode(), b"gone")

    failure = serde.decode(data)

    assert failure.args[2] == {"x": 1}
    assert str(failure.args[1])


def test_frames_of_flux_itself_are_left_out_of_tracebacks() -> None:
    def fail() -> None:
        serde.validate(int, "x")

    text = serde.traceback_of(caught(fail))

    assert "flux/serde" not in text
    assert "in fail" in text
    assert "InvalidInputError: input: Input should be" in text


def test_the_traceback_of_an_error_raised_from_a_recorded_one_includes_the_recorded_text() -> None:
    recorded = serde.decode(serde.encode_failure(caught(int, "x")))

    def fail() -> None:
        raise RuntimeError("in the body") from recorded

    text = serde.traceback_of(caught(fail))

    assert serde.traceback_of(recorded) in text
    assert "call(*arguments, **keywords)" in text
    assert text.endswith("RuntimeError: in the body\n")


def test_a_group_of_failures_can_be_split_and_matched() -> None:
    failure = serde.decode(serde.encode_failure(ExceptionGroup("g", [ValueError(1), KeyError("k")])))

    try:
        raise failure
    except* ValueError as values:
        matched: Any = values
    except* KeyError as keys:
        assert len(keys.exceptions) == 1

    assert matched.message == "g"
    assert [str(member) for member in matched.exceptions] == ["1"]
