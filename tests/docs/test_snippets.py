"""Every block of README and docs does what the document says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil.example import SybilFailure

import flux.app
from docs import running


@pytest.fixture
def directory(workdir: Path) -> Iterator[Path]:
    """The working directory of one document; its database is closed afterwards."""
    yield workdir
    flux.app.close_all()


@pytest.mark.parametrize("path", running.DOCUMENTS, ids=lambda path: path.name)
def test_a_document_does_what_it_shows(path: Path, directory: Path):
    running.run(path, directory)


@pytest.mark.parametrize("path", running.DOCUMENTS, ids=lambda path: path.name)
def test_a_document_has_only_blocks_that_are_run_or_plain_text(path: Path):
    assert set(running.languages(path.read_text("utf-8"))) <= running.LANGUAGES


def document(directory: Path, text: str) -> Path:
    path = directory / "document.md"
    path.write_text(text.replace("~~~", "```"), "utf-8")
    return path


def test_blocks_share_a_namespace_and_files(directory: Path):
    text = "~~~python\n# one.py\nx = 1\n~~~\n~~~python\n# one.py, continued\nassert x == 1\n~~~\n"
    text += "~~~console\n$ grep -c x one.py\n2\n~~~\n~~~python\n>>> x + 1\n2\n~~~\n"

    assert running.run(document(directory, text), directory) == 4


@pytest.mark.parametrize(
    "block",
    [
        "~~~python\nassert False\n~~~",
        "~~~python\n>>> 1\n2\n~~~",
        "~~~console\n$ echo 1\n2\n~~~",
        "~~~console\n$ echo one two\none\n~~~",
        "~~~console\n$ echo 1 & sleep 1; kill -9 $!\n1\n2\n~~~",
        "~~~toml\n# flux.toml\n= 1\n~~~",
        "~~~toml\na = 1\n~~~",
    ],
)
def test_a_block_that_is_wrong_fails(directory: Path, block: str):
    with pytest.raises((AssertionError, SybilFailure, ValueError)):
        running.run(document(directory, f"{block}\n"), directory)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("took 3 ms", "took 12.5 s"),
        ("a 2 min 03 s b", "a 0 ms   b"),
        ("started 2026-11-21 11:49:00 UTC", "started 2027-01-02 03:04:05 UTC"),
        ("id 01a1fdf020952ea453fac595287564dc", "id 01a1fdf3d4f18234229c4f69e8c75f62"),
        ("one\n...\nfour", "one\ntwo\nthree\nfour\n"),
    ],
)
def test_what_differs_from_run_to_run_is_not_compared(expected: str, actual: str):
    assert running.matches(expected, actual)


@pytest.mark.parametrize(("expected", "actual"), [("done", "failed"), ("a", "a b"), ("2 attempts", "3 attempts")])
def test_what_is_stable_is_compared(expected: str, actual: str):
    assert not running.matches(expected, actual)


def test_a_fence_of_another_language_is_seen():
    assert running.languages("```bash\nls\n```\n") == ["bash"]
