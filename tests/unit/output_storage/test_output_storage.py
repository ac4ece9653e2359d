"""Output storages: what is kept comes back, and no name leads out of the folder."""

import dataclasses
import os
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flux import files, serde
from flux.errors import CorruptedDatabaseError, InvalidValueError, NotFoundError, StoreError, UnserializableValue
from flux.output_storage import InlineOutputStorage, LocalFileStorage, OutputStorage, OutputStorageReference


@dataclasses.dataclass
class Report:
    pages: list[str]
    price: Decimal


@pytest.fixture(params=["inline", "local_file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> OutputStorage:
    return InlineOutputStorage() if request.param == "inline" else LocalFileStorage(tmp_path / "outputs")


@pytest.fixture
def local(tmp_path: Path) -> LocalFileStorage:
    return LocalFileStorage(tmp_path / "root" / "outputs")


def the_file(local: LocalFileStorage) -> Path:
    (path,) = local.base_path.iterdir()
    return path


VALUES = [None, 0, "", "naïve", b"\x00\xff", [1, (2, {3})], {1: "a"}, Report(["a"], Decimal("1.10")), "x" * 1_000_000]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:10])
def test_a_value_comes_back_as_what_it_was(storage: OutputStorage, value: Any) -> None:
    reference = storage.store("report_1", value)
    again = storage.retrieve(serde.decode(serde.encode(reference)))

    assert (type(again), again) == (type(value), value)
    assert reference.reference_id == "report_1"


def test_a_reference_is_recorded_under_a_name_that_stays() -> None:
    recorded = (
        b'j1{"~object":["flux.output_storage.reference:OutputStorageReference",'
        b'{"storage_type":"local_file","reference_id":"a","metadata":{"size":3}}]}'
    )
    reference = OutputStorageReference("local_file", "a", {"size": 3})

    assert serde.encode(reference) == recorded
    assert serde.decode(recorded) == reference
    with pytest.raises(dataclasses.FrozenInstanceError):
        reference.reference_id = "b"  # type: ignore[misc]


def test_what_is_kept_does_not_change_when_the_value_does(storage: OutputStorage) -> None:
    value = [1]
    reference = storage.store("a", value)
    value.append(2)

    assert storage.retrieve(reference) == [1]


def test_a_value_that_cannot_be_recorded_is_refused_and_nothing_is_kept(storage: OutputStorage, tmp_path: Path) -> None:
    with pytest.raises(UnserializableValue, match="lock"):
        storage.store("a", threading.Lock())

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reference_id", ["", None, 7, b"a"])
def test_an_id_that_is_no_text_is_refused(storage: OutputStorage, reference_id: Any) -> None:
    with pytest.raises(InvalidValueError, match="has the id"):
        storage.store(reference_id, 1)


def test_a_reference_of_another_storage_is_refused(storage: OutputStorage, tmp_path: Path) -> None:
    others = OutputStorageReference("s3", "a", {"value": 1})

    for ask in (storage.retrieve, storage.delete):
        with pytest.raises(InvalidValueError, match="'a' is kept in a storage of type 's3', and this one is of type"):
            ask(others)


def test_an_inline_reference_that_no_storage_made_is_refused() -> None:
    with pytest.raises(NotFoundError, match="holds no value"):
        InlineOutputStorage().retrieve(OutputStorageReference("inline", "a"))


def test_an_own_storage_needs_three_methods() -> None:
    class Incomplete(OutputStorage):
        def store(self, reference_id: str, value: Any) -> OutputStorageReference:
            return OutputStorageReference("own", reference_id)

    with pytest.raises(TypeError, match="delete.*retrieve"):
        Incomplete()  # type: ignore[abstract]


# -- deleting and replacing


def test_a_deleted_value_is_gone_and_deleting_it_again_is_harmless(local: LocalFileStorage) -> None:
    kept, gone = local.store("kept", 1), local.store("gone", 2)
    local.delete(gone)
    local.delete(gone)

    assert local.retrieve(kept) == 1
    with pytest.raises(NotFoundError, match=r"'gone' is not in .*gone-.*deleted or moved.*restore it"):
        local.retrieve(gone)


def test_storing_again_under_one_id_replaces_the_value(local: LocalFileStorage) -> None:
    first = local.store("a", 1)
    second = local.store("a", 2)

    assert local.retrieve(second) == 2
    assert local.store("a", 1) == first
    assert len(list(local.base_path.iterdir())) == 1


def test_a_reference_does_not_pass_the_value_of_a_later_one_for_its_own(local: LocalFileStorage) -> None:
    first = local.store("a", 1)
    local.store("a", 2)

    with pytest.raises(CorruptedDatabaseError, match=r"'a' in .* is not what was stored.*replaced since"):
        local.retrieve(first)


def test_replacing_is_whole_or_not_at_all(local: LocalFileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, whenever it shows, leaves the old value and nothing else."""
    reference = local.store("a", "old")

    for call in ("fsync", "replace"):
        with monkeypatch.context() as disk:
            disk.setattr(os, call, full_disk)
            with pytest.raises(StoreError, match=r"'a' cannot be written to .*No space left.*Nothing was replaced"):
                local.store("a", "new")

        assert local.retrieve(reference) == "old"
        assert len(list(local.base_path.iterdir())) == 1


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_reference(
    local: LocalFileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def syncing(descriptor: int) -> None:
        done.append(f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))[:5]}")
        fsync(descriptor)

    def replacing(source: Any, target: Any, **options: Any) -> None:
        done.append("replace")
        replace(source, target, **options)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    local.store("a", 1)

    above = local.base_path.parent.parent.name[:5]
    assert done == [f"fsync {above}", "fsync root", "fsync .new-", "replace", "fsync outpu"]


def test_writers_of_one_id_leave_one_whole_value(local: LocalFileStorage) -> None:
    references: list[OutputStorageReference] = []
    values = ["a" * 300_000, "b" * 200_000, "c" * 100_000]
    threads = [threading.Thread(target=lambda v=v: references.append(local.store("x", v))) for v in values * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert serde.decode(the_file(local).read_bytes()) in values
    assert len(references) == 15


# -- damage


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:5] + b"#" + data[6:], lambda _: b""])
def test_a_damaged_file_is_not_served(local: LocalFileStorage, damage: Any) -> None:
    reference = local.store("a", "something")
    path = the_file(local)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(CorruptedDatabaseError, match=r"'a' in .* is not what was stored.*backup"):
        local.retrieve(reference)


def test_a_reference_without_a_checksum_is_not_served(local: LocalFileStorage) -> None:
    local.store("a", 1)

    with pytest.raises(CorruptedDatabaseError):
        local.retrieve(OutputStorageReference("local_file", "a"))


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(local: LocalFileStorage) -> None:
    reference = local.store("a", 1)
    path = the_file(local)
    path.unlink()
    path.mkdir()

    for ask in (local.retrieve, local.delete):
        with pytest.raises(StoreError, match=str(path)):
            ask(reference)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    storage = LocalFileStorage(tmp_path / "taken")

    with pytest.raises(StoreError, match="'a' cannot be written to .*taken"):
        storage.store("a", 1)


# -- names

AWKWARD = [
    "a/b",
    "a_b",
    "a\\b",
    "a:b",
    "A/B",
    "/etc/passwd",
    "..",
    ".",
    "../../canary",
    "..\\..\\canary",
    "%2e%2e/canary",
    "C:\\canary",
    "~/canary",
    "-rf",
    ".new-1",
    "nul\0byte",
    "nul",
    " ",
    "\n",
    "x" * 300,
    "x" * 301,
    "x" * 300 + "/..",
    "é" * 300,
    "é",
    "e\u0301",
    "日本語",
    "💥",
    "\ud800",
    "\u202egnp.exe",
    "CON",
    "con",
]


def test_every_id_has_a_file_of_its_own_inside_the_folder(tmp_path: Path) -> None:
    """Files of two executions overwrote each other, and a "/" in a name crashed."""
    canary = tmp_path / "canary"
    canary.write_text("untouched")
    storage = LocalFileStorage(tmp_path / "a" / "b" / "outputs")
    before = snapshot(tmp_path)

    references = [storage.store(reference_id, i) for i, reference_id in enumerate(AWKWARD)]
    values = [storage.retrieve(reference) for reference in references]
    names = [path.name for path in storage.base_path.iterdir()]
    for reference in references:
        storage.delete(reference)

    assert values == list(range(len(AWKWARD)))
    assert len({name.casefold() for name in names}) == len(AWKWARD)
    assert all(
        len(name) <= 120 and name.endswith(".value") and name.isascii() and not name.startswith((".", "-"))
        for name in names
    )
    assert list(storage.base_path.iterdir()) == []
    assert {path: text for path, text in snapshot(tmp_path).items() if path in before} == before
    assert set(snapshot(tmp_path)) - set(before) == {tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/outputs"}


def snapshot(folder: Path) -> dict[Path, str]:
    return {path: path.read_text() if path.is_file() else "" for path in folder.rglob("*")}


def test_a_name_says_what_it_is_of(local: LocalFileStorage) -> None:
    local.store("report_0123abcd/final v2.pdf", 1)

    assert the_file(local).name.startswith("report_0123abcd_final_v2.pdf-")


def test_references_that_somebody_forged_lead_nowhere_else(local: LocalFileStorage, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_bytes(serde.encode("secret"))
    local.store("a", 1)

    for forged in ("../../canary", str(canary), "../canary"):
        reference = OutputStorageReference("local_file", forged, {"file": str(canary), "path": str(canary)})
        with pytest.raises(NotFoundError):
            local.retrieve(reference)
        local.delete(reference)

    assert canary.exists()


def test_symbolic_links_are_not_followed_out_of_the_folder(local: LocalFileStorage, tmp_path: Path) -> None:
    """Reading is refused; writing and deleting act on the link, not on what it leads to."""
    canary = tmp_path / "canary"
    reference = local.store("a", "mine")
    path = the_file(local)
    canary.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(canary)

    with pytest.raises(StoreError, match="symbolic links are not followed"):
        local.retrieve(reference)
    local.delete(reference)
    assert (canary.exists(), path.is_symlink()) == (True, False)

    path.symlink_to(canary)
    local.store("a", "other")
    assert serde.decode(canary.read_bytes()) == "mine"
    assert not path.is_symlink()


def test_a_folder_is_found_again_after_the_working_directory_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = LocalFileStorage()
    reference = storage.store("a", 1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert storage.retrieve(reference) == 1
    assert (tmp_path / ".flux" / "outputs").is_dir()


def test_a_new_file_may_be_read_by_whom_the_umask_lets(local: LocalFileStorage) -> None:
    """As the database beside it: a worker of the same group reads both."""
    umask = os.umask(0o027)
    try:
        local.store("a", 1)
    finally:
        os.umask(umask)

    assert the_file(local).stat().st_mode & 0o777 == 0o640


def test_the_folders_of_a_file_are_made_and_an_existing_one_is_left_alone(tmp_path: Path) -> None:
    files.write(tmp_path / "a" / "b" / "c", b"1")
    files.write(tmp_path / "a" / "b" / "d", b"2")
    files.make_folder(tmp_path / "a")

    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["c", "d"]
