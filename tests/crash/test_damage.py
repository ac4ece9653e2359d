"""A file that was damaged in any way is repaired as SQLite's log allows, or named with what to do: never believed."""

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

import flux.store.rows as rows
from conformance.conftest import Driver
from crash.processes import SOURCE
from flux.domain.execution import ExecutionState
from flux.errors import FluxError, StoreError
from flux.ports import CachedResult, MessageKind
from flux.store.sqlite import SqliteStore

DAMAGES = int(os.environ.get("FLUX_TEST_DAMAGES", "500"))
SEED = int(os.environ.get("FLUX_TEST_DAMAGE_SEED", "1"))  # It has found messages that were served as damage left them.
EXECUTIONS = 24
PAGE = 4096

pytestmark = pytest.mark.slow


@dataclass
class Original:
    """A database with half of its content in the log, and all that it holds."""

    folder: Path
    content: dict[str, object]


def text(rng: random.Random, size: int) -> bytes:
    return f'"{rng.randbytes(size).hex()}"'.encode()


def fill(driver: Driver, rng: random.Random, first: int) -> None:
    store = driver.store
    for number in range(first, first + EXECUTIONS // 2):
        id_, waits = f"x{number}", number % 3 == 0
        append = driver.birth(id_, events=0)
        append.events = driver.events(id_, 0, rng.randint(2, 12), data=text(rng, rng.randint(20, 4000)))
        append.state = ExecutionState.SCHEDULED if waits else ExecutionState.RUNNING
        append.cached = [CachedResult(id_.encode(), text(rng, 200), None)]
        driver.send(append)
        store.send(id_, kind=MessageKind.SIGNAL, data=text(rng, 500), now=5, name="s")


def facts(event) -> tuple[object, ...]:
    return event.seq, event.type, event.call_id, event.name, event.data, event.detail_data, event.time_us


def read(folder: Path) -> tuple[dict[str, object], list[str]]:
    """Everything that is served, and every refusal to serve."""
    served: dict[str, object] = {}
    refused: list[str] = []

    def ask(key: str, question: Callable[[], object]) -> None:
        try:
            served[key] = question()
        except FluxError as error:
            assert isinstance(error, StoreError), repr(error)
            refused.append(str(error))

    try:
        with closing(SqliteStore(folder / "flux.db")) as store:
            for number in range(EXECUTIONS):
                id_ = f"x{number}"
                ask(f"{id_} history", lambda: [facts(event) for event in store.events(id_)])
                ask(f"{id_} inbox", lambda: [message.data for message in store.inbox(id_)])
                ask(f"{id_} cached", lambda: store.cached_result(id_.encode(), now=0))
    except StoreError as error:
        refused.append(str(error))
    return served, refused


def is_kept(before: object, now: object) -> bool:
    """Whether what is served was written so, or is what was there before the last commits: those in the log."""
    if isinstance(before, list) and isinstance(now, list):
        return before[: len(now)] == now
    return now in (None, before)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Original:
    folder, rng = tmp_path_factory.mktemp("original"), random.Random(0)
    for half in (0, 1):
        store = SqliteStore(folder / "made" / "flux.db")
        store.register_worker("ada", lease_expires_at=10**15)
        fill(Driver(store), rng, half * EXECUTIONS // 2)
        if half == 0:
            store.close()  # Which moves all into the file.
    for name in ("flux.db", "flux.db-wal"):
        shutil.copy(folder / "made" / name, folder / name)
    store.close()
    served, refused = read(copied(folder, folder / "looked-at"))
    assert not refused
    return Original(folder, served)


def copied(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    for name in ("flux.db", "flux.db-wal"):
        shutil.copy(folder / name, to / name)
    return to


# -- damages, each of a folder


def bit_flip(name: str):
    def flip(folder: Path, rng: random.Random) -> None:
        data = bytearray((folder / name).read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(data)

    return flip


def zero_page(name: str):
    def zero(folder: Path, rng: random.Random) -> None:
        data = bytearray((folder / name).read_bytes())
        start = rng.randrange(len(data) // PAGE) * PAGE
        data[start : start + PAGE] = bytes(PAGE)
        (folder / name).write_bytes(data)

    return zero


def truncated(name: str):
    def truncate(folder: Path, rng: random.Random) -> None:
        os.truncate(folder / name, rng.randrange((folder / name).stat().st_size))

    return truncate


def without_log(folder: Path, rng: random.Random) -> None:
    (folder / "flux.db-wal").unlink()


def foreign_log(folder: Path, rng: random.Random) -> None:
    """The log of another database, as a careless restore leaves it."""
    store = SqliteStore(folder / "other" / "flux.db")
    driver = Driver(store)
    store.register_worker("ada", lease_expires_at=10**15)
    for number in range(rng.randint(1, 30)):
        driver.send(driver.birth(f"foreign-{number}", events=rng.randint(1, 9)))
    shutil.copy(folder / "other" / "flux.db-wal", folder / "flux.db-wal")
    store.close()


KINDS = [
    *(kind(name) for name in ("flux.db", "flux.db-wal") for kind in (bit_flip, bit_flip, zero_page, truncated)),
    without_log,
    foreign_log,
]


def damaged(original: Original, scratch: Path, count: int) -> tuple[Counter[str], list[str]]:
    """Damage copies at random; how each ended, and what was served that was never written."""
    rng, ends, wrong = random.Random(SEED), Counter[str](), []
    for number in range(count):
        damage = KINDS[number % len(KINDS)]
        folder = copied(original.folder, scratch / "damaged")
        damage(folder, rng)
        served, refused = read(folder)
        for key, value in served.items():
            if not is_kept(original.content[key], value):
                wrong.append(f"{number}, {damage.__qualname__}: {key}")
        for text in refused:
            if not ("flux.db" in text and ("restore" in text or "Restore" in text or "see that" in text.lower())):
                wrong.append(f"{number}, {damage.__qualname__}: no next step in {text!r}")
        ends["refused" if refused else "whole" if served == original.content else "repaired"] += 1
    return ends, wrong


def test_of_hundreds_of_damages_none_is_served_and_each_is_repaired_or_named(original, tmp_path):
    ends, wrong = damaged(original, tmp_path, DAMAGES)

    print(dict(ends))
    assert wrong == []
    assert min(ends["refused"], ends["repaired"], ends["whole"]) > DAMAGES / 20


def test_control_without_checksums_damage_is_served(original, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "checksum", lambda *_: Anything())

    _, wrong = damaged(original, tmp_path, DAMAGES // 4)

    assert any("history" in text for text in wrong)


class Anything:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None


@pytest.mark.parametrize("damage", [truncated("flux.db"), zero_page("flux.db")])
def test_a_command_on_a_damaged_file_ends_with_an_error_that_names_it_and_the_next_step(original, tmp_path, damage):
    folder = copied(original.folder, tmp_path / ".flux")
    (folder / "flux.db-wal").unlink()
    damage(folder, random.Random(1))
    data = bytearray((folder / "flux.db").read_bytes())
    data[100:200] = bytes(100)  # The first page, which every command reads.
    (folder / "flux.db").write_bytes(data)

    command = [sys.executable, "-m", "flux", "executions", "list"]
    env = {**os.environ, "PYTHONPATH": SOURCE}
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30, check=False)

    said = " ".join(ended.stderr.split())
    assert ended.returncode not in {0, -11}
    assert "flux.db is damaged" in said
    assert "restore a backup" in said
