"""Each promise is on its page, and each names tests that are there."""

import re

from docs.running import ROOT

PROMISES = 18
ABSENT = "*Not in this version*"


def wrong_promises(text: str, count: int, exists) -> list[str]:
    """Promises without a row, rows without a test, and tests that are not there."""
    rows = {int(number): row for number, row in re.findall(r"^\| P(\d+) \|(.*)$", text, flags=re.MULTILINE)}
    wrong = [f"P{number} is missing" for number in range(1, count + 1) if number not in rows]
    wrong += [f"P{number} has no test" for number, row in rows.items() if ABSENT not in row and "`tests/" not in row]
    return wrong + [f"{path} is not there" for path in re.findall(r"`(tests/[^`]*)`", text) if not exists(path)]


def test_every_promise_names_the_tests_that_hold_it():
    text = (ROOT / "docs" / "guarantees.md").read_text("utf-8")

    assert wrong_promises(text, PROMISES, lambda path: (ROOT / path).is_file()) == []


def test_a_promise_without_a_row_or_a_test_is_flagged():
    kept = "| P1 | Kept. | `tests/here.py` |\n| P2 | Kept. | `tests/gone.py` |\n| P3 | Kept. | |"
    text = f"{kept}\n| P5 | {ABSENT}: so. | |"
    found = wrong_promises(text, 5, lambda path: path == "tests/here.py")

    assert found == ["P4 is missing", "P3 has no test", "tests/gone.py is not there"]
