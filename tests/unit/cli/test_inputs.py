"""What a person means by INPUT."""

from datetime import date

import pytest

from flux.cli.inputs import fit, note_on, parse
from flux.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("None", None),
        ("true", True),
        ("False", False),
        ("3", 3),
        ("-3.5", -3.5),
        ("1e3", 1000.0),
        ('{"a": [1, null]}', {"a": [1, None]}),
        ('"3"', "3"),
        ("World", "World"),
        ("", ""),
        ("007", "007"),
        ("NaN", "NaN"),
        ("1e999", "1e999"),
        ("{broken", "{broken"),
        ("9" * 5000, "9" * 5000),
        ("[" * 100_000, "[" * 100_000),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_text_means_what_it_looks_like(text, value):
    assert parse(text) == value
    assert type(parse(text)) is type(value)


@pytest.mark.parametrize("text", ["5", "null", '{"a": 1}'])
def test_a_workflow_that_wants_a_str_gets_the_text_itself(text):
    assert fit(text, str) == text


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [("5", int, 5), ("5", str | None, "5"), ("null", str | None, None), ("2026-01-02", date, "2026-01-02")],
)
def test_the_text_is_meant_where_what_it_looks_like_does_not_fit(text, annotation, value):
    assert fit(text, annotation) == value


def test_an_input_that_does_not_fit_either_way_is_refused():
    with pytest.raises(InvalidInputError, match="valid integer"):
        fit("many", int)
    with pytest.raises(InvalidInputError, match="not JSON"):
        fit("{'a': 1}", dict[str, int])


def test_text_that_was_meant_as_json_is_remarked_on():
    assert "not JSON" in note_on("{'a': 1}", "{'a': 1}")
    assert note_on('{"a": 1}', {"a": 1}) == note_on("plain", "plain") == ""
