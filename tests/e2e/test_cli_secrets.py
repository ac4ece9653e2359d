"""`flux secrets`: values go in by a prompt or a pipe, names come out, and keys are changed without losing anything."""

import base64
import json
import os
import pty
import stat
from pathlib import Path

import pytest

from e2e.command import HEAD, run, start

VALUE = "correct-horse-battery-staple"
SOURCE = """
@task.with_options(secret_requests=["K"])
async def use(*, secrets):
    return len(secrets["K"])

@workflow
async def caller(ctx):
    return await use()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, with a configuration folder of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def everything_in(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_secret_is_kept_listed_used_and_removed_and_never_shown(project, tmp_path):
    (project / "caller.py").write_text(HEAD + SOURCE)
    kept = run(project, "secrets", "set", "K", stdin=f"{VALUE}\n")
    listed = run(project, "secrets", "list")
    as_json = run(project, "secrets", "list", "--json", FLUX_SECRET_OTHER="x")
    used = run(project, "run", "caller.py")
    removed = run(project, "secrets", "remove", "K")
    failed = run(project, "run", "caller.py")
    key_file = tmp_path / "config" / "flux" / "secret.keys"

    assert (kept.returncode, kept.stdout) == (0, "")
    assert "kept K, version 1" in kept.stderr
    assert listed.stdout.split()[:7] == ["name", "from", "version", "set", "K", "store", "1"]
    assert [json.loads(line)["name"] for line in as_json.stdout.splitlines()] == ["K", "OTHER"]
    assert [json.loads(line)["from"] for line in as_json.stdout.splitlines()] == ["store", "env"]
    assert (used.returncode, used.stdout) == (0, f"{len(VALUE)}\n")
    assert removed.returncode == 0
    assert failed.returncode == 1
    assert "The following secrets were not found: ['K']" in failed.stderr
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    shown = "".join(each.stdout + each.stderr for each in (kept, listed, as_json, used, removed, failed))
    assert VALUE[:8] not in shown
    assert VALUE[:8].encode() not in everything_in(tmp_path)


def test_a_prompt_does_not_echo_what_is_typed(project):
    ours, terminal = pty.openpty()
    pipes = {"stdin": terminal, "stderr": terminal, "start_new_session": True}
    process = start(project, "secrets", "set", "K", variables={"NO_COLOR": "1"}, **pipes)
    os.close(terminal)
    shown = b""
    while b"value of K: " not in shown:
        shown += os.read(ours, 1000)
    os.write(ours, f"{VALUE}\n".encode())
    out, _ = process.communicate(timeout=20)
    shown += os.read(ours, 10_000)
    os.close(ours)

    assert (process.returncode, out) == (0, "")
    assert b"kept K, version 1" in shown
    assert VALUE[:8].encode() not in shown


def test_a_value_on_the_command_line_is_warned_of(project):
    result = run(project, "secrets", "set", "K", VALUE, "--json")

    assert (result.returncode, json.loads(result.stdout)) == (0, {"name": "K", "version": 1})
    assert "warning: a value on the command line stays in the history of the shell" in result.stderr
    assert VALUE not in result.stderr


def test_what_a_short_value_and_a_variable_that_wins_mean_is_said(project):
    result = run(project, "secrets", "set", "K", stdin="short", FLUX_SECRET_K="other")

    assert "fewer than 8 characters" in result.stderr
    assert "in the environment wins over it" in result.stderr


@pytest.mark.slow
def test_rotating_makes_a_new_key_and_everything_can_be_read_with_it_alone(project, tmp_path):
    (project / "caller.py").write_text(HEAD + SOURCE)
    run(project, "secrets", "set", "K", stdin=VALUE)
    run(project, "secrets", "set", "OTHER", stdin=VALUE)
    key_file = tmp_path / "config" / "flux" / "secret.keys"
    old = key_file.read_text()
    result = run(project, "secrets", "rotate", "--json")
    keys = key_file.read_text()
    key_file.write_text(keys.splitlines()[0])
    used = run(project, "run", "caller.py")

    assert result.returncode == 0
    assert "encrypted 2 secrets anew" in result.stderr
    assert json.loads(result.stdout)["secrets"] == 2
    assert keys.splitlines()[1:] == old.splitlines()
    assert (used.returncode, used.stdout) == (0, f"{len(VALUE)}\n")
    assert not any(line in result.stderr + result.stdout for line in keys.splitlines())


def test_looking_makes_neither_a_database_nor_a_key(project, tmp_path):
    listed = run(project, "secrets", "list")
    others = run(project, "secrets", "list", "--json", FLUX_SECRET_K="x")
    removed = run(project, "secrets", "remove", "K")
    rotated = run(project, "secrets", "rotate")

    assert (listed.returncode, listed.stdout) == (0, "")
    assert "flux secrets set NAME" in listed.stderr
    assert json.loads(others.stdout) == {"name": "K", "from": "env", "version": None, "set_at": None}
    assert (removed.returncode, rotated.returncode) == (3, 3)
    assert list(tmp_path.iterdir()) == [project]
    assert list(project.iterdir()) == []


KEY = base64.b64encode(b"k" * 32).decode()
BAD = {
    "a name that is none": ("set a-b", "x" * 10, {}, 2, "cannot name a secret"),
    "an empty value": ("set K", "\n", {}, 2, "is empty, so nothing was changed"),
    "no value at all": ("set K", None, {}, 2, "is empty, so nothing was changed"),
    "an unknown one": ("remove KEPP", None, {}, 3, "did you mean KEPT?"),
    "one of the environment": ("remove E", None, {"FLUX_SECRET_E": "x"}, 3, "it is kept elsewhere"),
    "keys that Flux cannot change": ("rotate", None, {"FLUX_SECRET_KEYS": KEY}, 1, "put a new key first there"),
    "another key": ("rotate", None, {"FLUX_SECRET_KEY_FILE": "others"}, 1, "is encrypted with the key"),
    "keys that are none": ("set K", VALUE, {"FLUX_SECRET_KEYS": "abc"}, 1, "no key: each is 32 bytes in base64"),
    "a folder that is not there": ("list", None, {"FLUX_SECRETS_DIR": "gone"}, 1, "FLUX_SECRETS_DIR names gone"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_said_in_one_line_and_changes_nothing(project, case):
    words, stdin, variables, code, text = BAD[case]
    run(project, "secrets", "set", "KEPT", stdin=VALUE, **({"FLUX_SECRET_KEYS": KEY} if "change" in case else {}))
    database = project / ".flux" / "flux.db"
    before = database.read_bytes()
    result = run(project, "secrets", *words.split(), stdin=stdin, **variables)

    assert (result.returncode, result.stdout) == (code, "")
    assert text in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert database.read_bytes() == before
