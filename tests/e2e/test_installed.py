"""What `pip install` gets is whole: the first command of the README, and the one after it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def called(*words: object, at: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FLUX_", "PYTHONPATH"))}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=at,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_readme_installs_this_package():
    assert re.findall(r"pip install (\S+)", README) == [PROJECT["name"]]


@pytest.mark.slow
def test_what_is_built_and_installed_runs_the_first_workflow_of_the_readme(tmp_path):
    built = called("-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, at=ROOT)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    quietly = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target", site)
    installed = called("-m", "pip", "install", *quietly, wheel, at=tmp_path)
    assert installed.returncode == 0, installed.stderr
    source = re.search(r"```python\n(# hello\.py\n.*?)```", README, re.DOTALL)[1]
    (tmp_path / "hello.py").write_text(source)
    command = re.search(r"^\$ (flux run hello\.py:hello \w+)$", README, re.MULTILINE)[1].split()

    where = called("-c", "import flux; print(flux.__file__)", at=tmp_path, PYTHONPATH=str(site))
    ran = called(site / "bin" / command[0], *command[1:], at=tmp_path, PYTHONPATH=str(site))

    assert where.stdout.startswith(str(site))
    assert (ran.returncode, ran.stdout) == (0, "HELLO, WORLD!\n"), ran.stderr
    assert (tmp_path / ".flux" / "flux.db").exists()
