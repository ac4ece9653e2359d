"""Secrets where they are kept: encrypted, bound to their names, found in one order, and never shown."""

import asyncio
import base64
import sqlite3
import statistics
import time

import pytest

from flux.errors import InvalidValueError, SecretError, SecretNotFoundError, UnserializableValue
from flux.secret_managers import SecretManager
from flux.secret_managers.manager import Listed


def found(manager: SecretManager, *names: str):
    return asyncio.run(manager.get(list(names)))


def everything_in(folder) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


# -- kept


def test_a_secret_is_read_back_as_it_was_saved_by_any_process_with_the_key(manager, open_manager):
    value = {"user": "ada", "words": ("a", b"\x00\xff"), "number": 3}
    manager.save("DATABASE", value)
    manager.save("EMPTY", None)

    assert found(open_manager(), "DATABASE", "EMPTY") == {"DATABASE": value, "EMPTY": None}


def test_nothing_on_the_disk_holds_it_in_clear(manager, tmp_path):
    manager.save("K", "correct-horse-battery-staple")
    manager.save("K", "correct-horse-battery-staple-2")

    assert b"correct-horse" not in everything_in(tmp_path)
    assert b"secrets" in everything_in(tmp_path)  # The tables are there: it was looked into the right place.


def test_saving_again_replaces_the_value_and_counts_its_version(manager):
    for value in ("one-value", "two-values"):
        manager.save("K", value)

    assert found(manager, "K") == {"K": "two-values"}
    assert [(each.name, each.where, each.version) for each in manager.listed()] == [("K", "store", 2)]
    assert manager.listed()[0].updated_at > 1_700_000_000_000_000


def test_what_is_removed_is_gone_and_removing_it_again_is_an_error(manager):
    manager.save("K", "a-value")
    manager.remove("K")

    assert manager.all() == []
    with pytest.raises(SecretNotFoundError) as raised:
        manager.remove("K")
    assert str(raised.value) == "The following secrets were not found: ['K']"


def test_a_missing_secret_is_a_value_error_that_names_all_that_are_missing(manager):
    manager.save("B", "a-value")

    with pytest.raises(ValueError) as raised:
        found(manager, "A", "B", "C")
    assert str(raised.value) == "The following secrets were not found: ['A', 'C']"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../x", "1st", "ä", "x" * 201, "a\n", None, 3])
def test_a_name_that_is_none_is_refused(manager, name):
    for call in (lambda: manager.save(name, "v"), lambda: manager.find([name])):
        with pytest.raises(InvalidValueError):
            call()
    assert manager.all() == []


def test_a_text_in_place_of_a_list_of_names_is_refused(manager):
    with pytest.raises(InvalidValueError, match="list of names"):
        asyncio.run(manager.get("API_KEY"))


def test_a_value_that_cannot_be_recorded_is_refused_and_nothing_is_changed(manager):
    manager.save("K", "a-value")

    with pytest.raises(UnserializableValue):
        manager.save("K", object())
    assert found(manager, "K") == {"K": "a-value"}


def test_reading_and_writing_take_less_than_a_millisecond_beside_the_commit(manager, store, monkeypatch):
    for number in range(30):
        manager.save(f"K{number}", "x" * 100)
    real, commits = store.put_secret, []

    def timed(*args, **options):
        began = time.perf_counter()
        stored = real(*args, **options)
        commits.append(time.perf_counter() - began)
        return stored

    monkeypatch.setattr(store, "put_secret", timed)
    saves, reads = [], []
    for _ in range(25):
        began = time.perf_counter()
        manager.save("K7", "y" * 100)
        saves.append(time.perf_counter() - began - commits[-1])
        began = time.perf_counter()
        manager.find(["K7"])
        reads.append(time.perf_counter() - began)

    assert statistics.median(saves) < 0.001
    assert statistics.median(reads) < 0.001


# -- elsewhere


def test_the_environment_wins_over_the_folder_and_that_over_the_database(manager, environment, tmp_path):
    folder = tmp_path / "mounted"
    folder.mkdir()
    environment["FLUX_SECRETS_DIR"] = str(folder)
    for name in ("A", "B", "C"):
        manager.save(name, "of the store")
    for name in ("A", "B", "D"):
        (folder / name).write_text("of the folder\n")
    environment.update({"FLUX_SECRET_A": "of the environment", "FLUX_SECRET_E": "as well", "FLUX_SECRET_C": ""})
    listed = {each.name: each.where for each in manager.listed()}

    assert found(manager, "A", "B", "C", "D", "E") == {
        "A": "of the environment",
        "B": "of the folder",
        "C": "of the store",
        "D": "of the folder",
        "E": "as well",
    }
    assert listed == {"A": "env", "B": "file", "C": "store", "D": "file", "E": "env"}
    assert manager.all() == ["A", "B", "C", "D", "E"]


def test_the_keys_themselves_are_no_secrets(manager, environment):
    environment.update({"FLUX_SECRET_KEYS": "a" * 43 + "=", "FLUX_SECRET_KEY_FILE": "x"})

    assert manager.all() == []
    with pytest.raises(SecretNotFoundError):
        manager.find(["KEY_FILE"])


def test_hidden_files_and_folders_of_a_mounted_folder_are_no_secrets(manager, environment, tmp_path):
    (tmp_path / "mounted" / "..data").mkdir(parents=True)
    (tmp_path / "mounted" / "real-name.txt").write_text("x")
    (tmp_path / "mounted" / "SUB").mkdir()
    environment["FLUX_SECRETS_DIR"] = str(tmp_path / "mounted")

    assert manager.all() == []


def test_a_folder_that_cannot_be_read_is_named(manager, environment, tmp_path):
    environment["FLUX_SECRETS_DIR"] = str(tmp_path / "gone")

    with pytest.raises(SecretError, match="FLUX_SECRETS_DIR names .*gone"):
        manager.all()


def test_a_file_that_is_no_text_is_named(manager, environment, tmp_path):
    (tmp_path / "K").write_bytes(b"\xff\xfe")
    environment["FLUX_SECRETS_DIR"] = str(tmp_path)

    with pytest.raises(SecretError, match="'K' cannot be read"):
        manager.find(["K"])


# -- keys


def test_another_key_opens_nothing_and_says_which_is_missing(manager, open_manager, tmp_path):
    manager.save("K", "a-value")
    path = manager.keys.path
    path.rename(path.with_name("away"))
    other = open_manager()

    with pytest.raises(SecretError, match=r"'K' is encrypted with the key [0-9a-f]{16}, which is not here"):
        other.find(["K"])
    assert not path.exists()  # No key was made, which would stand in the way of the right one.
    other.save("OTHER", "another-value")
    with pytest.raises(SecretError, match="'K' is encrypted"):
        other.rotate()
    assert found(open_manager(), "OTHER") == {"OTHER": "another-value"}


def test_rotation_encrypts_everything_anew_and_all_can_be_read_all_the_time(manager, open_manager, store, monkeypatch):
    running = open_manager()
    for name in ("A", "B", "C"):
        manager.save(name, f"value of {name}")
    before = {each.name: each for each in store.secrets()}
    running.find(["A"])  # It knows the old key alone.
    real, seen = store.put_secret, []

    def watched(*args, **options):
        seen.append((found(running, "A", "B", "C"), found(open_manager(), "A", "B", "C")))
        return real(*args, **options)

    monkeypatch.setattr(store, "put_secret", watched)
    changed = manager.rotate()
    after = {each.name: each for each in store.secrets()}

    assert changed == 3
    assert seen == [({name: f"value of {name}" for name in "ABC"},) * 2] * 3
    assert {each.key_id for each in after.values()} == {manager.keys.first().id} != {before["A"].key_id}
    assert not {before[name].data for name in before} & {after[name].data for name in after}
    assert [each.updated_at for each in after.values()] == [each.updated_at for each in before.values()]
    assert found(running, "A") == {"A": "value of A"}


def test_a_rotation_that_fails_half_way_is_repeated_and_loses_nothing(manager, open_manager, store, monkeypatch):
    for name in ("A", "B"):
        manager.save(name, f"value of {name}")
    real = store.put_secret

    def failing(secret, **options):
        if secret.name == "B":
            raise OSError("the disk is full")
        return real(secret, **options)

    monkeypatch.setattr(store, "put_secret", failing)
    with pytest.raises(OSError):
        manager.rotate()
    assert found(open_manager(), "A", "B") == {"A": "value of A", "B": "value of B"}
    monkeypatch.undo()
    open_manager().rotate()

    assert found(open_manager(), "A", "B") == {"A": "value of A", "B": "value of B"}
    assert len({each.key_id for each in store.secrets()}) == 1


def test_a_secret_that_is_saved_during_a_rotation_is_not_overwritten(manager, open_manager, store, monkeypatch):
    manager.save("K", "old-value")
    other, real, raced = open_manager(), store.put_secret, []

    def racing(secret, **options):
        if not raced:
            raced.append(True)
            other.save("K", "new-value")
        return real(secret, **options)

    monkeypatch.setattr(store, "put_secret", racing)
    manager.rotate()

    assert found(open_manager(), "K") == {"K": "new-value"}


def test_keys_of_the_environment_are_rotated_by_putting_one_first(manager, open_manager, store, environment):
    old, new = (base64.b64encode(bytes([byte]) * 32).decode() for byte in (1, 2))
    environment["FLUX_SECRET_KEYS"] = old
    open_manager().save("K", "a-value")
    with pytest.raises(SecretError, match="put a new key first there"):
        open_manager().rotate()
    environment["FLUX_SECRET_KEYS"] = f"{new},{old}"

    assert open_manager().rotate() == 1
    environment["FLUX_SECRET_KEYS"] = new
    assert found(open_manager(), "K") == {"K": "a-value"}


# -- tampering


def test_rows_that_are_exchanged_do_not_open(manager, store):
    manager.save("A", "value of A")
    manager.save("B", "value of B")
    manager.save("B", "value of B, again")
    a, b = store.secrets()
    connection = sqlite3.connect(store._path)
    for row, other in ((a, b), (b, a)):
        connection.execute("UPDATE secrets SET data = ? WHERE name = ?", (other.data, row.name))
    connection.commit()

    for name in ("A", "B"):
        with pytest.raises(SecretError, match=f"'{name}' is not what was stored"):
            manager.find([name])
    connection.execute("UPDATE secrets SET data = ?, version = ? WHERE name = 'A'", (a.data, a.version + 1))
    connection.commit()
    connection.close()
    with pytest.raises(SecretError, match="'A' is not what was stored"):
        manager.find(["A"])


@pytest.mark.parametrize("place", [0, 12, -1])
def test_a_bit_that_is_changed_is_noticed(manager, store, place):
    manager.save("K", "a-value")
    (secret,) = store.secrets()
    damaged = bytearray(secret.data)
    damaged[place] ^= 1
    store.put_secret(secret._replace(data=bytes(damaged)), expected_version=secret.version)

    with pytest.raises(SecretError, match="damaged"):
        manager.find(["K"])


def test_what_is_too_short_to_be_encrypted_is_noticed(manager, store):
    manager.save("K", "a-value")
    (secret,) = store.secrets()
    store.put_secret(secret._replace(data=b"short"), expected_version=secret.version)

    with pytest.raises(SecretError, match="damaged"):
        manager.find(["K"])


def test_what_is_shown_of_secrets_holds_no_value(manager):
    manager.save("K", "a-value-of-it")

    assert "a-value" not in repr(manager.listed())
    assert isinstance(manager.listed()[0], Listed)
