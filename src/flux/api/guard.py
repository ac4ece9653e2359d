"""The guard before every route: by whom a request is sent, from where, and whether that may do it.

One layer on the raw path, with a short list of what is open; what it does not know, it refuses.  Loopback is no
protection: any page in a browser can reach it, so the host and the origin are checked for all methods.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flux.api import errors, receiving
from flux.api.access import READING, Access, Caller, Gate, Limits
from flux.api.errors import RefusedError
from flux.api.subscribers import Subscribers
from flux.errors import FluxError

__all__ = ["Access", "Guard", "Limits"]

logger = logging.getLogger("flux.api")

OPEN = frozenset({"/healthz", "/readyz"})
SLICE = 64 * 1024
_METHODS = READING | {"POST", "PUT", "DELETE"}
_ONCE = frozenset(
    "host authorization origin content-type content-length content-encoding transfer-encoding sec-fetch-site".split()
)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)


class Guard:
    """The outermost layer.

    Args:
        app: What it guards.
        access: Who may do what.
    """

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app, self._access = app, access
        self._gate = Gate(access)
        self._subscribers = Subscribers(access.limits, self._gate.holds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, _Answer(scope, send))
        else:
            await send({"type": "websocket.close", "code": 1008})  # There are none.

    async def _request(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        headers: dict[str, str] = {}
        is_received = False
        try:
            headers = _headers(scope)
            caller = self._admitted(scope, headers)
            body = b""
            if receiving.is_announced(headers):
                body = await receiving.whole(receive, headers, self._access.limits)
            is_received = True
            if body:
                receiving.check(body)
            await self._pass_on(scope, receiving.replayed(body, receive), answer, caller)
        except receiving.ClientGoneError:
            return
        except RefusedError as refused:
            await _refuse(refused.answer, scope, receive, answer, None if is_received else headers)
        except Exception as error:  # The boundary of every route.
            if answer.has_started:
                raise
            known = errors.of(error) if isinstance(error, FluxError) else errors.fault(error)
            await _refuse(known, scope, receive, answer, None if is_received else headers)

    async def _pass_on(self, scope: Scope, receive: Receive, answer: "_Answer", caller: Caller) -> None:
        """Run the route; an event stream is counted, and ends when its token does."""
        end = asyncio.timeout(None)
        try:
            async with end:
                answer.on_stream = lambda: self._subscribers.enter(caller, end)
                await self._app(scope, receive, answer)
        except TimeoutError:
            if not end.expired():
                raise
            await answer({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._subscribers.leave(end)

    def _admitted(self, scope: Scope, headers: Mapping[str, str]) -> Caller:
        """By whom a request is sent that may go on.

        Raises:
            RefusedError: It may not.
        """
        method, path = scope["method"], _path(scope)
        if not self._is_known(_host_of(headers.get("host", ""))):
            raise RefusedError(400, "UnknownHost", "the server is not known by this name", "use its own address")
        if not path.startswith("/"):
            raise RefusedError(400, "InvalidRequest", "the path does not begin with /", "send the path only")
        address = (scope.get("client") or ("",))[0]
        if self._access.is_open or (path in OPEN and method in READING):
            caller = Caller(f"address {address}", None)
        else:
            caller = self._gate.caller(headers.get("authorization", ""), address, method, path)
        self._check_kind(method, path, headers)
        return caller

    def _check_kind(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        if method not in _METHODS:
            raise RefusedError(405, "HTTPError", "Method Not Allowed")
        if (method not in READING or path.startswith("/api")) and not self._is_same_origin(headers):
            raise RefusedError(403, "ForeignOrigin", "another site's page sent this", "send it yourself")
        if method in READING:
            if receiving.is_announced(headers):
                raise RefusedError(400, "InvalidRequest", f"{method} has no body", "put it into the query")
            return
        if not _is_json(headers) and (receiving.is_announced(headers) or "x-flux" not in headers):
            hint = "send  Content-Type: application/json, or without a body  X-Flux: 1"
            raise RefusedError(415, "UnsupportedMediaType", "it does not say that it is JSON", hint)

    def _is_known(self, host: str) -> bool:
        return host in self._access.hosts or (self._access.any_address and _is_address(host))

    def _is_same_origin(self, headers: Mapping[str, str]) -> bool:
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if origin is not None and origin in self._access.origins:
            return True
        if site is not None and site not in {"same-origin", "none"}:
            return False
        return origin is None or urlsplit(origin).netloc == headers.get("host")


class _Answer:
    """Sends an answer: with the headers that each has, and in slices, so that little waits for a slow client."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._is_api = _path(scope).startswith("/api")
        self.has_started = False
        self.on_stream: Any = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
            return
        body = message.get("body", b"")
        for begin in range(0, len(body) - SLICE, SLICE):
            await self._send({**message, "body": body[begin : begin + SLICE], "more_body": True})
        rest = (len(body) - 1) // SLICE * SLICE if body else 0
        await self._send({**message, "body": body[rest:]})

    async def _start(self, message: Message) -> None:
        headers = [*message.get("headers", ()), *_HEADERS]
        given = {name.lower(): value for name, value in headers}
        if given.get(b"content-type", b"").startswith(b"text/event-stream") and self.on_stream is not None:
            self.on_stream()
        if self._is_api and b"cache-control" not in given:
            headers.append((b"cache-control", b"no-store"))
        self.has_started = True
        await self._send({**message, "headers": headers})


async def _refuse(
    refusal: ASGIApp, scope: Scope, receive: Receive, answer: _Answer, unread: Mapping[str, str] | None
) -> None:
    """Answer a request; if its body was not read, `unread` are its headers, and the connection is closed."""
    if unread is not None and (receiving.is_announced(unread) or not unread):
        await refusal(scope, receive, _closing(receive, answer, unread))
    else:
        await refusal(scope, receive, answer)


def _closing(receive: Receive, answer: _Answer, headers: Mapping[str, str]) -> Send:
    lingers = True

    async def send(message: Message) -> None:
        nonlocal lingers
        if message["type"] == "http.response.start":
            lingers = message["status"] != HTTPStatus.REQUEST_TIMEOUT  # It has been waited for already.
            await answer({**message, "headers": [*message["headers"], (b"connection", b"close")]})
            return
        await answer({**message, "more_body": True})
        if lingers:
            await receiving.linger(receive, headers)
        await answer({"type": "http.response.body", "body": b"", "more_body": False})

    return send


def _headers(scope: Scope) -> dict[str, str]:
    """The headers by name; those that decide something come once.

    Raises:
        RefusedError: One of them comes twice.
    """
    headers: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").lower()
        if name in _ONCE and name in headers:
            raise RefusedError(400, "InvalidRequest", f"the header {name} comes twice", "send it once")
        headers[name] = value.decode("latin-1")
    return headers


def _path(scope: Scope) -> str:
    """The path as the routes see it: below where the application is mounted."""
    path: str = scope["path"]
    root = scope.get("root_path", "")
    return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path


def _host_of(header: str) -> str:
    """The name in a Host header, in lower case; empty if it is none."""
    try:
        parts = urlsplit(f"//{header}")
        is_name = parts.port != 0 and parts.netloc == header and parts.username is None
    except ValueError:
        return ""
    return (parts.hostname or "") if is_name else ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_json(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
