"""Thirty secrets, let out in thirty ways: nothing of them is on the disk, in a log, or in anything that Flux shows."""

import base64
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.command import environment, run, start, wait_for

COUNT = 30


def canaries() -> dict[str, str]:
    """Random texts by the names of their secrets; every other one has what must be escaped somewhere."""
    plain = {f"S{number}": secrets.token_urlsafe(24) for number in range(0, COUNT, 2)}
    odd = {f"S{n}": f"{secrets.token_hex(8)}/\"'\\ &%ü{secrets.token_hex(8)}" for n in range(1, COUNT, 2)}
    return plain | odd


def signs_of(canary: str) -> list[bytes]:
    """Parts by which a secret is known again in whatever form; by chance they are nowhere."""
    raw = canary.encode()
    encoded = [base64.b64encode(b"." * shift + raw).decode()[4:20] for shift in range(3)]
    return [each.encode() for each in (canary[:12], canary[-12:], raw.hex()[:24], raw.hex()[-24:], *encoded)]


def leak_everything(directory: Path, canary: dict[str, str], **control: str) -> bytes:
    """Give the secrets to the program in all ways, let it run, and return all that can be seen afterwards."""
    shutil.copy(Path(__file__).with_name("leaks.py"), directory)
    (directory / "mounted").mkdir()
    variables = {"XDG_CONFIG_HOME": str(directory.parent / "config"), "FLUX_SECRETS_DIR": str(directory / "mounted")}
    variables |= {"NOTE": f"{canary['S25']}\n{canary['S26']}", **control}
    for number, (name, value) in enumerate(canary.items()):
        if number % 3 == 0:
            variables[f"FLUX_SECRET_{name}"] = value
        elif number % 3 == 1:
            (directory / "mounted" / name).write_text(value)
        else:
            assert run(directory, "secrets", "set", name, stdin=value, **variables).returncode == 0
    killed = start(directory, "run", "leaks.py:leaks", "wait", "--id", "killed-1", variables=variables)
    wait_for((directory / "waiting").exists, seconds=60)
    killed.send_signal(signal.SIGKILL)
    seen = [*killed.communicate(timeout=20)]
    seen += [everything_in(directory)]  # With the log that the crash left.
    for words in (
        ["run", "leaks.py:leaks", "said", "--id", "said-1"],
        ["run", "leaks.py:leaks", "--id", "failed-1", "--verbose"],
        ["run", "leaks.py:leaks", "--id", "failed-1", "--json"],
        ["run", "leaks.py:given", canary["S29"]],
        ["executions", "list", "--json"],
        ["executions", "show", "said-1", "--all"],
        ["executions", "show", "failed-1"],
        ["executions", "show", "failed-1", "--json"],
        ["secrets", "list"],
        ["secrets", "rotate"],
        ["doctor"],
        ["doctor", "--json"],
    ):
        result = run(directory, *words, **variables)
        seen += [result.stdout, result.stderr]
    options = {"cwd": directory, "env": environment(**variables), "capture_output": True, "encoding": "utf-8"}
    program = subprocess.run([sys.executable, "leaks.py"], timeout=60, check=True, **options)
    seen += [program.stdout, program.stderr, everything_in(directory)]
    return "\n".join(seen).encode("utf-8", "surrogateescape")


def everything_in(directory: Path) -> str:
    paths = [path for path in directory.rglob("*") if path.is_file() and path.parent.name != "mounted"]
    return b"\n".join(path.read_bytes() for path in paths).decode("utf-8", "surrogateescape")


def found(canary: dict[str, str], seen: bytes) -> list[str]:
    return [name for name, value in canary.items() if any(sign in seen for sign in signs_of(value))]


@pytest.mark.slow
def test_nothing_that_flux_writes_or_shows_holds_anything_of_a_requested_secret(tmp_path):
    canary, directory = canaries(), tmp_path / "project"
    directory.mkdir()
    seen = leak_everything(directory, canary)

    assert found(canary, seen) == []
    assert all(f"[secret {name}]".encode() in seen for name in ("S0", "S1", "S12", "S17", "S21", "S27"))


@pytest.mark.slow
def test_without_redaction_each_of_these_ways_lets_its_secret_out(tmp_path):
    """The control."""
    canary, directory = canaries(), tmp_path / "project"
    directory.mkdir()
    seen = leak_everything(directory, canary, CONTROL="1")

    assert set(canary) - set(found(canary, seen)) == set()
