"""The body of a request: received whole, under a limit and a deadline, before any route sees it."""

import asyncio
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from starlette.types import Receive

from flux.api.access import Limits
from flux.api.errors import RefusedError

DEPTH, VALUES = 100, 250_000
LINGER_SECONDS, LINGER_BYTES = 1.0, 16 * 1024 * 1024
_STRING = re.compile(r'"[^"]*"?')
_NO_BRACKET = re.compile(r"[^\[\]{}]+")


class ClientGoneError(Exception):
    """Nobody waits for an answer."""


def is_announced(headers: Mapping[str, str]) -> bool:
    """Whether a body follows."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def whole(receive: Receive, headers: Mapping[str, str], limits: Limits) -> bytes:
    """The body.

    Raises:
        RefusedError: It is too large, too slow, or encoded.
        ClientGoneError: The client has closed the connection.
    """
    _check_size(headers, limits.body_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                body += message.get("body", b"")
                if len(body) > limits.body_bytes:
                    raise _too_large(limits.body_bytes)
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise RefusedError(
            408, "TooSlow", f"the body did not arrive within {limits.body_seconds:g} s", "send it faster, or less of it"
        ) from None
    return bytes(body)


async def linger(receive: Receive, headers: Mapping[str, str]) -> None:
    """Take and drop what a refused client still sends, for a moment: closed on at once, it might not see why."""
    if "expect" in headers:  # It waits to be told to send.
        return
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        return


def replayed(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was received already."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return messages.pop() if messages else await receive()

    return again


def _check_size(headers: Mapping[str, str], most: int) -> None:
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RefusedError(415, "UnsupportedEncoding", "the body is compressed", "send it as it is")
    length = headers.get("content-length")
    if length is None:
        return
    if "transfer-encoding" in headers or not (length.isascii() and length.isdecimal()):
        raise RefusedError(400, "InvalidRequest", "the length of the body is not clear", "send one Content-Length")
    if len(length) > 18 or int(length) > most:
        raise _too_large(most)


def _too_large(most: int) -> RefusedError:
    return RefusedError(
        413, "TooLarge", f"the body has more than {most} bytes", "pass a path to large data, or set max_body_bytes"
    )


def check(body: bytes | bytearray) -> None:
    """See that a body is JSON that is safe to take.

    What is counted is counted before anything is built, so that a small body cannot make much work.

    Raises:
        RefusedError: It is not, or is too deep, or has too many values, a name twice, or a number that JSON has not.
    """
    try:
        text = body.decode()
        if text.count(",") + text.count("[") + text.count("{") > VALUES:
            _check_values(text)
        if text.count("[") + text.count("{") > DEPTH:
            _check_depth(text)
        value = json.loads(text, object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # A half of a character is no text.
    except UnicodeEncodeError:
        raise _invalid("the body has half a character, \\ud800 to \\udfff without its other half") from None
    except UnicodeDecodeError:
        raise _invalid("the body is not UTF-8") from None
    except ValueError as error:
        raise _invalid(f"the body is not JSON: {error}"[:300]) from None


def _invalid(message: str) -> RefusedError:
    return RefusedError(400, "InvalidJSON", message, "send one JSON value (RFC 8259) in UTF-8")


def _check_values(text: str) -> None:
    bare = _bare(text)
    if bare.count(",") + bare.count("[") + bare.count("{") > VALUES:
        raise RefusedError(
            413, "TooLarge", f"the body has more than {VALUES} values", "pass a path to large data, or one text"
        )


def _check_depth(text: str) -> None:
    depth = 0
    for bracket in _NO_BRACKET.sub("", _bare(text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEPTH:
            raise RefusedError(400, "TooDeep", f"the body is nested more than {DEPTH} deep", "send it flatter")


def _bare(text: str) -> str:
    """JSON without its strings, in time that is linear whatever the text is."""
    return _STRING.sub("", text.replace("\\\\", "").replace('\\"', ""))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"an object has {name[:100]!r} twice")
        found[name] = value
    return found


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:100]} is too large for a number")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
