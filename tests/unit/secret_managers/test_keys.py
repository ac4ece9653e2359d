"""The ring of keys: where it is, who can read it, and that no key is ever lost."""

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import flux
from flux.errors import SecretError
from flux.secret_managers.keys import KeyRing

MAKE = "from flux.secret_managers.keys import KeyRing; input(); print(KeyRing().{call}.id)"


def key(byte: int) -> str:
    return base64.b64encode(bytes([byte]) * 32).decode()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def at_once(call: str, environment: dict[str, str], count: int = 6) -> list[str]:
    """What processes print that call a method of their ring at the same moment."""
    source = str(Path(flux.__file__).parents[1])
    command = [sys.executable, "-c", MAKE.format(call=call)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env={**environment, "PYTHONPATH": source}, **pipes) for _ in range(count)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate(timeout=30)[0].strip() for process in processes]


def test_the_first_key_is_made_in_the_users_configuration_folder_for_its_owner_alone(environment, tmp_path):
    before = os.umask(0)
    try:
        made = KeyRing(environment).first()
    finally:
        os.umask(before)
    path = tmp_path / "config" / "flux" / "secret.keys"

    assert KeyRing(environment).path == path
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert KeyRing(environment).first() == made
    assert len(base64.b64decode(path.read_text())) == 32
    assert [each.name for each in path.parent.iterdir()] == ["secret.keys"]


def test_looking_for_a_key_makes_none(environment, tmp_path):
    assert KeyRing(environment).find("0123") is None
    assert KeyRing(environment).all() == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_keeps_its_rights(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    KeyRing({"FLUX_SECRET_KEY_FILE": str(folder / "keys")}).first()

    assert (mode(folder), mode(folder / "keys")) == (0o755, 0o600)


@pytest.mark.slow
def test_processes_that_make_the_first_key_at_once_agree_on_one(environment, tmp_path):
    ids = at_once("first()", environment)

    assert len(set(ids)) == 1
    assert ids[0] == KeyRing(environment).first().id


@pytest.mark.slow
def test_processes_that_add_keys_at_once_lose_none(environment):
    ids = at_once("add()", environment)

    assert len(set(ids)) == 6
    assert {each.id for each in KeyRing(environment).all()} == set(ids)


def test_an_added_key_encrypts_and_the_older_ones_stay(environment):
    ring = KeyRing(environment)
    old = ring.first()
    new = ring.add()

    assert ring.first() == new
    assert KeyRing(environment).all() == [new, old]


def test_a_key_that_another_process_has_added_is_found(environment):
    ring = KeyRing(environment)
    ring.first()
    added = KeyRing(environment).add()

    assert ring.find(added.id) == added


def test_a_key_file_that_others_can_read_is_refused(environment):
    ring = KeyRing(environment)
    ring.first()
    ring.path.chmod(0o640)

    with pytest.raises(SecretError, match=r"can be read by others: 'chmod 600 .*secret\.keys'"):
        KeyRing(environment).first()


def test_keys_in_the_environment_are_used_and_no_file_is_made(tmp_path, environment):
    ring = KeyRing({**environment, "FLUX_SECRET_KEYS": f"{key(1)}, {key(2)}"})

    assert [each.data[0] for each in ring.all()] == [1, 2]
    assert ring.path is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SecretError, match="put a new key first there"):
        ring.add()


@pytest.mark.parametrize("text", ["", "short", key(1)[:-4], "ü", key(1) + "x"])
def test_a_damaged_key_file_is_refused_and_left_as_it_is(environment, text):
    ring = KeyRing(environment)
    ring.first()
    ring.path.write_text(text)

    for call in (KeyRing(environment).first, KeyRing(environment).add):
        with pytest.raises(SecretError, match=r"secret\.keys"):
            call()
    assert ring.path.read_text() == text


def test_no_message_shows_a_key(environment):
    wrong = key(7) + "x"

    with pytest.raises(SecretError) as raised:
        KeyRing({**environment, "FLUX_SECRET_KEYS": wrong}).first()
    assert wrong[:8] not in str(raised.value)
    assert key(7)[:8] not in repr(KeyRing({"FLUX_SECRET_KEYS": key(7)}).first())


def test_a_place_that_cannot_be_written_is_named_with_the_ways_out(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")

    with pytest.raises(SecretError, match=r"no key for secrets could be written .*link.*FLUX_SECRET_KEY_FILE"):
        KeyRing({"FLUX_SECRET_KEY_FILE": str(tmp_path / "link" / "keys")}).first()


def test_without_a_home_the_ways_out_are_named():
    with pytest.raises(SecretError, match="FLUX_SECRET_KEY_FILE"):
        KeyRing({"FLUX_SECRET_KEY_FILE": "~nobody-of-this-name/keys"}).first()


def test_signing_keys_are_not_the_encrypting_ones(environment):
    ring = KeyRing(environment)

    assert ring.signing_keys()[0] != ring.first().data
    assert ring.signing_keys() == KeyRing(environment).signing_keys()
