"""What may reach a terminal."""

import pytest

from flux.cli.live import Tally
from flux.cli.loading import Target
from flux.cli.output import duration, error_text, one_line, safe
from flux.domain.events import ExecutionEventType as Type


@pytest.mark.parametrize(
    "text", ["\x1b[31m", "\x07", "\r", "\x9b2J", "\u202eabc", "\u200b", "\x7f", "\u2028", "\ud800"]
)
def test_nothing_that_a_terminal_obeys_passes(text):
    assert safe(text).isprintable()
    assert safe(text) != text


def test_line_ends_tabs_and_every_script_pass():
    assert safe("a\tb\nΩ 日本 🎉") == "a\tb\nΩ 日本 🎉"


def test_one_line_is_one_line_and_keeps_spaces():
    assert one_line("a\n  b\t c  d\n") == "a b c  d"
    assert one_line("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "0 ms"),
        (400, "0.4 ms"),
        (9_960, "10 ms"),
        (31_000, "31 ms"),
        (999_600, "1.0 s"),
        (59_960_000, "1 min 00 s"),
        (3_720_000_000, "1 h 02 min"),
        (200_000_000_000, "2 d 7 h"),
        (-5, "0 ms"),
    ],
)
def test_durations_are_short(microseconds, text):
    assert duration(microseconds) == text


def test_an_error_is_its_type_and_its_text():
    assert error_text({"type": "ValueError", "message": "a\nb"}) == "ValueError: a b"
    assert error_text({"type": "ValueError", "message": ""}) == "ValueError"


@pytest.mark.parametrize(
    ("text", "source", "workflow"),
    [
        ("a.py", "a.py", None),
        ("a.py:w", "a.py", "w"),
        ("p.m:w", "p.m", "w"),
        ("a.py:", "a.py", None),
        ("d:x/a.py", "d:x/a.py", None),
    ],
)
def test_a_target_is_a_source_and_perhaps_a_workflow(text, source, workflow):
    assert Target.parse(text) == Target(source, workflow)


def test_a_tally_knows_what_is_open_and_how_much_is_done(story):
    story.call("1", "f", 0, 1).tell(1, Type.TASK_STARTED, "2", "f", {})
    story.tell(1, Type.TASK_STARTED, "3", "g", {}, parent="2")
    story.tell(2, Type.TASK_RETRY_FAILED, "3", "g", {"current_attempt": 0}, error=ValueError("x"))
    tally = Tally()
    for event in story.events:
        tally.take(event)

    assert {name: dict(+counts) for name, counts in tally.counts.items()} == {
        "f": {"done": 1, "running": 1},
        "g": {"retrying": 1},
    }
    assert list(tally.open) == ["2", "3"]
    assert tally.parents == {"2"}
