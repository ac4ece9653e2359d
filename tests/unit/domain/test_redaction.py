"""Secrets are found and covered in every form in which they come, and what holds them can still be read."""

import base64
import dataclasses
import decimal
import json
import reprlib
import urllib.parse
import uuid

import pytest

from flux import serde
from flux.domain.redaction import Redactor

SECRET = "sk-live/\"quoted' \\ back+slash&ümläut=%20"
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n-----END KEY-----\n"
RAW = SECRET.encode()
FORMS = {
    "as it is": SECRET,
    "within a text": f"a{SECRET}b",
    "as JSON": json.dumps({"a": SECRET}),
    "as JSON with letters of its own": json.dumps({"a": SECRET}, ensure_ascii=False),
    "as JSON in JSON": json.dumps(json.dumps(SECRET)),
    "its repr": repr({"a": SECRET}),
    "its repr as JSON": json.dumps(repr([SECRET])),
    "the repr of its bytes": repr(RAW),
    "a part of a URL": f"https://x/?k={urllib.parse.quote(SECRET, safe='')}",
    "a path of a URL": urllib.parse.quote(SECRET),
    "a form": urllib.parse.urlencode({"k": SECRET}),
    "base64": base64.b64encode(RAW).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(RAW).decode(),
    "base64 of credentials": base64.b64encode(b"user:" + RAW).decode(),
    "base64 of it between others": base64.b64encode(b"ab" + RAW + b"yz").decode(),
    "hexadecimal": RAW.hex(),
}
TELLING = {SECRET[:12], SECRET[-12:], base64.b64encode(RAW).decode()[8:24], RAW.hex()[:16]}


@pytest.fixture
def redactor() -> Redactor:
    return Redactor({"K": SECRET, "PIN": 12345678901, "ID": "123e4567-e89b-12d3-a456-426614174000", "SHORT": "abc"})


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_found_and_covered(redactor, form):
    text = FORMS[form]
    covered = redactor.text(text)

    assert "[secret K]" in covered
    assert not any(each in covered for each in TELLING)
    assert redactor.find({"a": text}) == "value['a']"
    assert redactor.find({"a": text}, serde.encode({"a": text})) == "value['a']"
    assert Redactor({}).find({"a": text}) is None
    assert Redactor({}).text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        reprlib.repr(SECRET),
        f"{SECRET[:20]}…",
        f"…{SECRET[-15:]}",
        f"{SECRET[:14]} … 26 characters left out … {SECRET[-12:]}",
        base64.b64encode(RAW).decode()[:30],
    ],
)
def test_what_is_left_of_a_secret_that_was_cut_is_covered(redactor, text):
    covered = redactor.text(text)

    assert covered.startswith(("[secret K]", "'[secret K]", "…[secret K]"))
    assert len(max(covered.replace("[secret K]", "|").split("|"), key=len)) < 40
    assert SECRET[:9] not in covered
    assert SECRET[-9:] not in covered


def test_what_is_left_of_a_secret_is_covered_to_its_end(redactor):
    assert redactor.text(f"<{SECRET[:30]}>") == "<[secret K]>"
    assert redactor.text(f"<{SECRET[-30:]}>") == "<[secret K]>"


def test_each_line_of_a_secret_of_many_is_covered_and_alone_no_reason_to_refuse(redactor):
    redactor = Redactor({"PEM": PEM})
    line = PEM.splitlines()[1]

    assert redactor.text(f"at line 2: {line}") == "at line 2: [secret PEM]"
    assert redactor.find("-----BEGIN KEY-----") is None
    assert redactor.find(f"x{PEM}") == "value"


def test_short_secrets_and_other_texts_are_left_alone(redactor):
    text = "abc of the alphabet, sk-live, 1234567"

    assert redactor.text(text) == text
    assert redactor.find(text) is None


def test_of_a_secret_that_is_a_dict_the_values_count():
    redactor = Redactor({"DB": {"username": "ada", "password": b"correct-horse"}, "LIST": ["first-of-it", None]})

    assert redactor.text("username=correct-horse, first-of-it") == "username=[secret DB], [secret LIST]"
    assert redactor.find({"username": 1}) is None


@dataclasses.dataclass
class Order:
    note: str


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([1, {"a": (2, SECRET)}], "value[1]['a'][1]"),
        ({SECRET: 1}, "value (a key)"),
        (Order(f"x{SECRET}"), "value['note']"),
        (ValueError("x", [SECRET]), "value['message']"),
        (decimal.Decimal(12345678901), "value"),
        (12345678901, "value"),
        ({"id": uuid.UUID("123e4567-e89b-12d3-a456-426614174000")}, "value['id']"),
        (b"\xff" * 30 + RAW, "value"),
    ],
)
def test_the_path_to_a_secret_is_named(redactor, value, path):
    assert redactor.find(value, serde.encode(value)) == path


def test_the_argument_that_holds_a_secret_is_named(redactor):
    named = {"a": 1, "b": {"c": [SECRET]}}

    assert redactor.find(named, serde.encode_arguments(named), path="arguments") == "arguments['b']['c'][0]"
    assert redactor.find({"a": 1}, serde.encode_arguments({"a": 1})) is None


def test_an_inner_redactor_knows_what_the_outer_one_does(redactor):
    inner = Redactor({"OTHER": "another-secret"}, redactor)

    assert inner.text(f"{SECRET} another-secret") == "[secret K] [secret OTHER]"
    assert inner.find(SECRET) == "value"
    assert redactor.find("another-secret") is None


ARGUMENTS = (
    {"x": [SECRET, RAW], SECRET: 1},
    b"\xff\x00" + RAW + b"\xfe",
    bytearray(RAW),
    decimal.Decimal(12345678901),
    12345678901,
    12345678901.0,
    uuid.UUID("123e4567-e89b-12d3-a456-426614174000"),
    (SECRET, {SECRET}, True, None, -1.5),
)


def test_a_covered_error_can_be_decoded_and_is_what_it_was_but_for_the_secret(redactor):
    error = ValueError(f"bad {SECRET}", *ARGUMENTS)
    error.note = SECRET
    error.__cause__ = KeyError(SECRET)
    data = redactor.encoded(serde.encode_failure(error))
    read = serde.decode(data)
    covered = "[secret K]"

    assert isinstance(read, ValueError)
    assert read.args == (
        f"bad {covered}",
        {"x": [covered, covered.encode()], covered: 1},
        b"\xff\x00" + covered.encode() + b"\xfe",
        bytearray(covered.encode()),
        "[secret PIN]",
        "[secret PIN]",
        "[secret PIN].0",
        "[secret ID]",
        (covered, {covered}, True, None, -1.5),
    )
    assert read.note == covered
    assert not any(each.encode() in data for each in TELLING)
    assert not any(each in f"{read} {read!r} {serde.traceback_of(read)}" for each in TELLING)


def test_a_secret_in_long_bytes_is_found_and_covered(redactor):
    value = b"\xff" * 5000 + RAW + b"\xfe"
    data = serde.encode(value)

    assert RAW in data
    assert redactor.find(value, data) == "value"
    assert redactor.find(value[:5000], serde.encode(value[:5000])) is None
    assert serde.decode(redactor.encoded(data)) == b"\xff" * 5000 + b"[secret K]" + b"\xfe"


@pytest.mark.parametrize("value", ARGUMENTS, ids=lambda value: type(value).__name__)
def test_without_a_secret_an_encoded_value_stays_as_it_is(value):
    data = serde.encode(value)

    assert Redactor({"K": "a secret that is not in it"}).encoded(data) == data


@pytest.mark.parametrize("place", [5_900, 5_990, 23_980, 24_000, 30_000])
def test_a_text_that_is_cut_when_it_is_recorded_leaves_no_end_of_a_secret(place):
    secret = "0123456789abcdefghijklmnopqrstuvwxyz"
    error = ValueError("-" * place + secret + "-" * 60_000)
    data = Redactor({"K": secret}).encoded(serde.encode_failure(error)).decode()

    assert not any(secret[at : at + 12] in data for at in range(len(secret) - 12))
