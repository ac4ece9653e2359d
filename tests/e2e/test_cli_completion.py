"""What the shell is proposed: the names that there are, at once, and never an error or a file."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.command import HEAD, environment, run

SOURCE = "@workflow\nasync def approve(ctx): return await pause('p') if ctx.input else 1\n"


def proposed(directory: Path, line: str, **variables: str) -> list[str]:
    """What bash proposes for the last word of a line."""
    variables |= {"_FLUX_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    command = [sys.executable, "-m", "flux"]
    result = subprocess.run(
        command, cwd=directory, env=environment(**variables), capture_output=True, text=True, timeout=20, check=True
    )
    assert result.stderr == ""
    return result.stdout.split()


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("completion")
    (directory / "approve.py").write_text(HEAD + SOURCE)
    run(directory, "run", "approve.py", "false", "--id", "done-1")
    run(directory, "run", "approve.py", "true", "--id", "open-1")
    run(directory, "secrets", "set", "API_KEY", stdin="a-value")
    return directory


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("flux exe", ["executions"]),
        ("flux secrets ", ["set", "list", "remove", "rotate"]),
        ("flux executions show ", ["open-1", "done-1"]),
        ("flux executions show d", ["done-1"]),
        ("flux executions show d*", []),
        ("flux executions cancel ", ["open-1"]),
        ("flux executions signal o", ["open-1"]),
        ("flux executions resume ", ["open-1"]),
        ("flux executions list --state c", ["completed", "cancelled"]),
        ("flux secrets remove ", ["API_KEY"]),
        ("flux secrets set A", ["API_KEY"]),
    ],
)
def test_names_are_proposed_where_an_argument_wants_them(project, line, words):
    before = files(project)

    assert proposed(project, line) == words
    assert files(project) == before


def test_the_database_that_the_line_names_counts(project, tmp_path):
    line = f"flux --database {project / '.flux' / 'flux.db'} executions show "

    assert proposed(tmp_path, line) == ["open-1", "done-1"]
    assert files(tmp_path) == set()


@pytest.mark.parametrize("content", [None, b"", b"no database " * 1000])
def test_without_a_sound_database_nothing_is_proposed_and_nothing_is_made(tmp_path, content):
    if content is not None:
        (tmp_path / "flux.db").write_bytes(content)
    before = files(tmp_path)

    assert proposed(tmp_path, "flux executions show ", FLUX_DATABASE="flux.db") == []
    assert proposed(tmp_path, "flux secrets remove ", FLUX_DATABASE="flux.db") == []
    assert files(tmp_path) == before


def test_settings_that_cannot_be_read_are_no_reason_to_fail(tmp_path):
    (tmp_path / "flux.toml").write_text("= 1")

    assert proposed(tmp_path, "flux executions show ") == []


def test_a_database_in_which_somebody_writes_is_read_all_the_same(project):
    connection = sqlite3.connect(project / ".flux" / "flux.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM secrets")
    found = proposed(project, "flux secrets remove ")
    connection.execute("ROLLBACK")
    connection.close()

    assert found == ["API_KEY"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_shown(tmp_path, shell):
    result = run(tmp_path, "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")

    assert "_FLUX_COMPLETE" in result.stdout
