"""Pickles are signed, and nothing that is not signed with a key of the ring is ever read as one."""

import ast
import builtins
import collections
import enum
import functools
import hmac
import json
import pickle
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux import serde, task
from flux.errors import CorruptedDatabaseError, InvalidValueError, NotFoundError, SecretError, UnserializableValue
from flux.serde import keys as keys_slot
from flux.serde import pickled
from flux.serde.keys import PICKLED

PACKAGE = Path(serde.__file__).parent.parent
OLD, NEW = b"old key, 32 bytes".ljust(32), b"new key, 32 bytes".ljust(32)
FIRED: list[str] = []


class Basket:
    def __init__(self, *items: str) -> None:
        self.items = list(items)

    def __eq__(self, other: object) -> bool:
        return type(other) is Basket and other.items == self.items

    __hash__ = None  # type: ignore[assignment]


class Lopsided:
    """Can be pickled, but not read back."""

    def __init__(self, code: int) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return Lopsided, ()


class Changed:
    """Is read back only as long as its class says so."""

    reads = True

    def __setstate__(self, _state: Any) -> None:
        if not Changed.reads:
            raise RuntimeError("no longer")

    def __getstate__(self) -> Any:
        return {"x": 1}


def fire() -> None:
    FIRED.append("run")


class Fires:
    def __reduce__(self) -> Any:
        return fire, ()


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    ring = [OLD]
    monkeypatch.setattr(keys_slot, "_find_keys", None)
    serde.install_keys(lambda: ring)
    FIRED.clear()
    yield ring


WATCHED = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class"}
_heard: list[str] | None = None


def _listen(event: str, _arguments: Any) -> None:
    if _heard is not None and event in WATCHED:
        _heard.append(event)


sys.addaudithook(_listen)  # It cannot be removed.


def _listen_to(call: Any, source: Any, *others: Any, **named: Any) -> Any:
    # Not what the import of a module does, if a package loads one on its first use.
    if _heard is not None and isinstance(source, str) and source in SOURCES:
        _heard.append(call.__name__)
    return call(source, *others, **named)


@contextmanager
def heard() -> Iterator[list[str]]:
    """What runs code or programs within."""
    global _heard
    _heard = events = []
    try:
        with pytest.MonkeyPatch.context() as patch:
            for call in (eval, exec, compile):
                patch.setattr(builtins, call.__name__, functools.partial(_listen_to, call))
            yield events
    finally:
        _heard = None


# -- round trips


@pytest.mark.parametrize("value", [7, {"a": [1, (2,)]}, None, "text"])
def test_what_has_a_codec_is_not_pickled(value: Any) -> None:
    assert serde.encode_pickled(value) == serde.encode(value)


def test_what_has_none_is_pickled_and_signed_with_the_first_key(keys: list[bytes]) -> None:
    keys.insert(0, NEW)
    data = serde.encode_pickled({"b": Basket("tea")})

    signature, rest = data[2:34], data[34:]
    assert data[:2] == b"p1"
    assert pickle.loads(rest) == {"b": Basket("tea")}
    assert signature == hmac.digest(NEW, b"flux p1\0" + rest, "sha256")
    assert serde.decode(data) == {"b": Basket("tea")}
    assert serde.decode_recorded(data) == {"b": Basket("tea")}


class Loud(str):
    pass


HELD: list[Any] = []
HELD.append(HELD)


@pytest.mark.parametrize(
    "value", ["\ud800", Loud("x"), {Loud("k"): 1}, collections.ChainMap({1: 2}), re.compile("x"), [Basket()]]
)
def test_what_the_ordinary_codec_refuses_comes_back(value: Any) -> None:
    decoded = serde.decode(serde.encode_pickled(value))

    assert (type(decoded), decoded) == (type(value), value)


def test_what_contains_itself_comes_back() -> None:
    (inner,) = decoded = serde.decode(serde.encode_pickled(HELD))

    assert inner is decoded


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": threading.Lock()}, "a dict cannot be recorded, nor pickled .*_thread.lock"),
        ((n for n in ()), "generator"),
        ([lambda: 1], "nor pickled .*lambda"),
        (type("Local", (), {})(), "nor pickled"),
        (Lopsided(1), r"can be pickled, but not read back \(TypeError"),
    ],
)
def test_what_cannot_be_pickled_is_refused_with_the_reason(value: Any, says: str) -> None:
    with pytest.raises(UnserializableValue, match=f"^value: .*{says}"):
        serde.encode_pickled(value)


def test_what_a_script_defines_is_found_when_the_script_is_loaded_as_a_module(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(
        "import sys\n"
        "from flux import serde\n"
        "serde.install_keys(lambda: [b'k' * 32])\n"
        "class Basket:\n    def __init__(self): self.items = [1]\n"
        "def show(data): print(type(serde.decode(data)).__name__, serde.decode(data).items)\n"
        "if sys.argv[1:] == ['write']: sys.stdout.buffer.write(serde.encode_pickled(Basket()))\n"
        "if sys.argv[1:] == ['read']: show(sys.stdin.buffer.read())\n"
        "if sys.argv[1:] == ['gone']:\n"
        "    del Basket\n"
        "    try: show(sys.stdin.buffer.read())\n"
        "    except LookupError: print('gone')\n"
    )
    load = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import shop; "

    def run(*arguments: str, data: bytes = b"") -> bytes:
        return subprocess.run([sys.executable, *arguments], input=data, capture_output=True, check=True).stdout

    by_script = run(str(script), "write")
    by_module = run("-c", load + "sys.stdout.buffer.write(shop.serde.encode_pickled(shop.Basket()))")

    assert run(str(script), "read", data=by_module) == b"Basket [1]\n"
    assert run("-c", load + "shop.show(sys.stdin.buffer.read())", data=by_script) == b"Basket [1]\n"
    assert run(str(script), "gone", data=by_module) == b"gone\n"  # And the script was not run once more for it.


# -- signatures


def test_every_key_of_the_ring_verifies_and_a_removed_one_does_not(keys: list[bytes]) -> None:
    data = serde.encode_pickled(Basket("tea"))
    keys.insert(0, NEW)

    assert serde.decode(data) == Basket("tea")
    keys.remove(OLD)
    with pytest.raises(CorruptedDatabaseError, match="not signed with a key of the key ring.*FLUX_SECRET_KEYS"):
        serde.decode(data)


GADGETS = {
    "reduce": pickle.dumps(Fires()),
    "system": b"cos\nsystem\n(S'true'\ntR.",
    "eval": b'cbuiltins\neval\n(V__import__("os").system("true")\ntR.',
    "popen": b"csubprocess\nPopen\n((S'true'\nltR.",
    "proto 4": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "find": b"cflux.serde.classes\nfind\n(S'os:system'\ntR.",
}


def signed(key: bytes, data: bytes) -> bytes:
    return b"p1" + pickled._signature(key, data) + data


@pytest.mark.parametrize("name", GADGETS)
def test_nothing_of_a_pickle_is_run_unless_it_is_signed(name: str) -> None:
    gadget = GADGETS[name]
    forgeries = [
        b"p1" + gadget,
        b"p1" + bytes(32) + gadget,
        b"p1" + hmac.digest(OLD, gadget, "sha256") + gadget,  # For another purpose.
        signed(b"", gadget),
        signed(NEW, gadget),
        serde.encode_pickled(Basket())[:34] + gadget,
        gadget,
        b"j1" + gadget,
        b"p2" + signed(OLD, gadget)[2:],
    ]

    for data in forgeries:
        for read in (serde.decode, serde.decode_recorded):
            with pytest.raises(CorruptedDatabaseError), heard() as events:
                read(data)
            assert (events, FIRED) == ([], [])


def test_a_signed_gadget_is_run_so_that_the_test_above_can_fail() -> None:
    with heard() as events:
        serde.decode(signed(OLD, GADGETS["reduce"]))
        serde.decode(signed(OLD, GADGETS["eval"]))

    assert FIRED == ["run"]
    assert {"eval", "os.system"} <= {*events}


def test_a_pickle_that_was_cut_or_changed_anywhere_is_not_read() -> None:
    data = serde.encode_pickled([Basket("tea"), Fires])

    for end in range(2, len(data)):
        with pytest.raises(CorruptedDatabaseError):
            serde.decode(data[:end])
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << random.Random(place).randrange(8)
        with pytest.raises(CorruptedDatabaseError):
            serde.decode(bytes(changed))


def test_a_pickle_is_displayed_without_being_read(keys: list[bytes]) -> None:
    data = signed(OLD, GADGETS["reduce"])
    keys.clear()

    assert serde.display(data) == f"<pickle, {len(GADGETS['reduce'])} bytes>"
    assert serde.display(PICKLED) == "<pickle, 0 bytes>"
    assert serde.display(b"p1" + bytes(32 + 1234)) == "<pickle, 1,234 bytes>"
    assert FIRED == []


def test_without_keys_nothing_is_pickled_or_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = serde.encode_pickled(Basket())
    monkeypatch.setattr(keys_slot, "_find_keys", None)

    with pytest.raises(SecretError, match="key ring"):
        serde.encode_pickled(Basket())
    with pytest.raises(SecretError, match="key ring"):
        serde.decode(data)


def test_a_pickle_whose_classes_are_gone_or_have_changed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    gone, changed = serde.encode_pickled(Basket()), serde.encode_pickled(Changed())
    monkeypatch.delattr(sys.modules[__name__], "Basket")
    monkeypatch.setattr(Changed, "reads", False)

    with pytest.raises(NotFoundError, match="not there any more.*Basket"):
        serde.decode(gone)
    with pytest.raises(CorruptedDatabaseError, match="its classes raise RuntimeError.*no longer"):
        serde.decode(changed)


# -- tagged JSON


class Mode(enum.Flag):
    A = 1


NAMES = [
    "os:system", "builtins:eval", "builtins:exec", "builtins:__import__", "subprocess:Popen", "subprocess:run",
    "pickle:loads", "importlib:import_module", "flux.serde.pickled:read", f"{__name__}:Fires", f"{__name__}:Mode",
    f"{__name__}:fire", "builtins:type", "builtins:object", "threading:Thread", "pathlib:Path", "this:x",
    "collections:namedtuple", "functools:partial", "enum:Flag", "pydantic:BaseModel", "builtins:SystemExit",
]  # fmt: skip
TAGS = ["~object", "~model", "~named", "~enum", "~flag", "~name", "~error", "~path", "~defaultdict", "~zone", "~numpy",
        "~ndarray", "~pandas", "~Series", "~DataFrame", "~Index", "~int", "~pickle", "~p1"]  # fmt: skip
SOURCES = {*NAMES, "true", "x", '__import__("os").system("true")'}
LEAVES = st.sampled_from([*sorted(SOURCES), 0, 1, None, [], {}])
KEYS = st.sampled_from([*TAGS, "type", "text", "args"])
PAYLOADS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=2), max_leaves=12
)


@settings(max_examples=400, deadline=None)
@given(tag=st.sampled_from(TAGS), name=st.sampled_from(NAMES), rest=st.lists(PAYLOADS, max_size=4))
def test_no_name_in_tagged_json_is_ever_called(tag: str, name: str, rest: list[Any]) -> None:
    for payload in ([name, *rest], name, {"type": name, "text": "", "args": rest}, [{"type": name, "text": "x"}]):
        for read in (serde.decode, serde.decode_recorded, serde.display):
            with suppress(CorruptedDatabaseError, NotFoundError), heard() as events:
                read(b"j1" + json.dumps({tag: payload}).encode())
            assert (events, FIRED) == ([], [])
    assert "this" not in sys.modules


# -- arguments


def test_an_object_counts_by_the_name_of_its_class_and_the_task_gets_a_copy() -> None:
    original: dict[str, object] = {"b": [Basket("tea")], "n": 1}

    data = serde.encode_pickled_arguments(original)
    copy: dict[str, Any] = serde.decode_arguments(data, original)

    assert f"{__name__}:Basket".encode() in data
    assert b"tea" not in data
    assert copy == original
    assert copy["b"][0] is not original["b"][0]  # type: ignore[index]
    assert serde.decode_recorded(data) == {"b": [f"{__name__}:Basket"], "n": 1}
    assert serde.display(data) == {"b": [f"{__name__}:Basket"], "n": 1}
    assert serde.encode_pickled_arguments({"b": [Basket]}) != data


def test_arguments_that_have_a_codec_are_recorded_as_those_of_any_task() -> None:
    arguments = {"a": [1, {"b": (2,)}], "f": len}

    assert serde.encode_pickled_arguments(arguments) == serde.encode_arguments(arguments)


@pytest.mark.parametrize("value", ["\ud800", HELD, Loud("x"), {Loud("k"): 1}])
def test_an_argument_of_any_other_kind_counts_by_name_too(value: Any) -> None:
    data = serde.encode_pickled_arguments({"x": value})

    copy = serde.decode_arguments(data, {"x": value})["x"]

    assert type(copy) is type(value)
    assert copy is value or copy is not value and repr(copy) == repr(value)
    assert serde.decode_recorded(data)


def test_an_argument_that_cannot_be_pickled_is_refused_by_name() -> None:
    with pytest.raises(UnserializableValue, match="^order: a list cannot be recorded, nor pickled .*_thread.lock"):
        serde.encode_pickled_arguments({"n": 1, "order": [threading.Lock()]})


def test_the_copy_is_of_the_moment_of_the_call() -> None:
    @task.with_options(serializer="pickle")
    async def pack(basket: Basket) -> None:
        pass

    mine = Basket("tea")
    arguments = pack.definition.arguments((mine,), {})
    mine.items.append("later")
    first, second = arguments.copy()["basket"], arguments.copy()["basket"]

    assert first.items == second.items == ["tea"]
    assert first is not second


def test_functions_beside_a_list_do_not_delay_its_copy() -> None:
    @task
    async def apply(function: Any, items: list[int]) -> None:
        pass

    mine = [1]
    arguments = apply.definition.arguments((lambda x: x, mine), {})
    mine.append(2)

    assert arguments.copy()["items"] == [1]


def test_a_task_whose_results_are_cached_takes_no_argument_that_counts_by_name() -> None:
    """Two baskets would find each other's result."""

    @task.with_options(serializer="pickle", cache=True)
    async def price(basket: Basket) -> int:
        return len(basket.items)

    with pytest.raises(UnserializableValue, match="^basket: "):
        price.definition.arguments((Basket(),), {})


def test_a_pickled_task_in_a_process_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="leave one of them out"):
        task.with_options(serializer="pickle", executor="process")(Basket)


# -- the package


UNSAFE_MODULES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "jsonpickle"}
UNSAFE_CALLS = {"eval", "exec", "__import__"}
ALLOWED_CALLS = {("cli/loading.py", "exec"), ("engine/process_child.py", "exec")}  # Files that the user named.


def unsafe(source: str) -> set[str]:
    """What a module imports or calls that can make code of data."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name.partition(".")[0] for alias in names} & UNSAFE_MODULES
            case ast.ImportFrom(module=str(module)):
                found |= {module.partition(".")[0]} & UNSAFE_MODULES
            case ast.Call(func=ast.Name(id=name)):
                found |= {name} & UNSAFE_CALLS
            case ast.keyword(arg="allow_pickle", value=value):
                found |= {"allow_pickle"} if getattr(value, "value", True) is not False else set()
            case ast.Attribute(attr="read_pickle" | "to_pickle" as name):
                found.add(name)
    return found


def test_pickle_is_used_in_one_module_and_nothing_else_makes_code_of_data() -> None:
    found = {
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        for name in unsafe(path.read_text("utf-8"))
    }

    assert found - ALLOWED_CALLS == {("serde/pickled.py", "pickle")}


@pytest.mark.parametrize("source", [
    "import pickle", "from pickle import loads", "import os, dill.source", "x = eval('1')", "exec(code)",
    "numpy.load(f, allow_pickle=True)", "numpy.load(f, allow_pickle=flag)", "pandas.read_pickle(f)", "import yaml as y",
])  # fmt: skip
def test_code_from_data_is_flagged(source: str) -> None:
    assert unsafe(source)
    assert not unsafe("from flux.serde import pickled\npickled.write(x)\nload(f, allow_pickle=False)")
