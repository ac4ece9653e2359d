"""What users' type checkers see: types survive the decorators, and wrong calls are errors."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE.parent.parent / "src"

Errors = set[tuple[str, int]]


def mypy(directory: Path) -> tuple[Errors, str]:
    command = [
        sys.executable, "-m", "mypy", "--strict", "--python-version=3.11", "--config-file=",
        f"--cache-dir={directory / 'cache'}", "--show-absolute-path", "--no-error-summary", *files(),
    ]  # fmt: skip
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=directory, env={"MYPYPATH": str(SOURCE), "PATH": ""}, check=False
    )
    found = re.findall(r"^(.+?):(\d+): error:", run.stdout, re.MULTILINE)
    return {(Path(file).name, int(line)) for file, line in found}, run.stdout + run.stderr


def pyright(directory: Path) -> tuple[Errors, str]:
    for file in files():
        shutil.copy(file, directory)  # It looks only into the project's own directory.
    config = {
        "extraPaths": [str(SOURCE)],
        "pythonVersion": "3.11",
        "typeCheckingMode": "standard",
        "reportUnusedExpression": "none",
    }
    (directory / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--project", str(directory)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=directory, check=False)
    found = json.loads(run.stdout)["generalDiagnostics"]
    errors = [one for one in found if one["severity"] == "error"]
    text = "\n".join(f"{Path(e['file']).name}:{e['range']['start']['line'] + 1}: {e['message']}" for e in errors)
    return {(Path(e["file"]).name, e["range"]["start"]["line"] + 1) for e in errors}, text


def files() -> list[str]:
    return [str(HERE / name) for name in ("accepted.py", "combinators.py", "refused.py")]


@pytest.fixture(scope="module", params=[mypy, pyright], ids=["mypy", "pyright"])
def checked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Errors, str]:
    """What one type checker says about all the files."""
    return request.param(tmp_path_factory.mktemp("typing"))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["accepted.py", "combinators.py"])
def test_the_types_of_users_survive(checked: tuple[Errors, str], name: str) -> None:
    errors, text = checked

    assert {line for file, line in errors if file == name} == set(), text


def test_wrong_calls_are_errors_and_nothing_else_is(checked: tuple[Errors, str]) -> None:
    errors, text = checked
    expected = {
        number for number, line in enumerate((HERE / "refused.py").read_text().splitlines(), 1) if "# error" in line
    }

    assert {line for file, line in errors if file == "refused.py"} == expected, text
