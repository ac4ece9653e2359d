"""The guard before every route: by whom a request is sent, from where, and whether that may do it.

One layer on the raw path, with a short list of what is open; what it does not know, it refuses.  Loopback is no
protection: any page in a browser can reach it, so the host and the origin are checked for all methods.
"""

import hashlib
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from flux.api import errors
from flux.clock import Clock
from flux.ports import StoredToken

OPEN = frozenset({"/healthz", "/readyz"})
ROLES = ("viewer", "operator", "admin")
_READING = frozenset({"GET", "HEAD"})
_METHODS = _READING | {"POST", "PUT", "DELETE"}
_ADMINS = ("/api/tokens", "/api/secrets")


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what.

    Args:
        hosts: Names by which the server may be addressed, without ports, in lower case.
        find: Finds a token by its hash.
        clock: Tells whether it has expired.
        is_open: Whether no token is needed: the server listens on loopback only.
    """

    hosts: Collection[str]
    find: Callable[[bytes], StoredToken | None]
    clock: Clock
    is_open: bool
    origins: Collection[str] = field(default_factory=frozenset)


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).digest()


class Guard:
    """The outermost layer.

    Args:
        app: What it guards.
        access: Who may do what.
    """

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # There are no web sockets.
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        answer = self._refusal(scope["method"], scope["path"], headers)
        if answer is not None:
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, method: str, path: str, headers: dict[str, str]) -> ASGIApp | None:
        access = self._access
        if _host_of(headers.get("host", "")) not in access.hosts:
            return errors.problem(400, "UnknownHost", "the server is not known by this name", "use its own address")
        if method not in _METHODS:
            return errors.problem(405, "HTTPError", "Method Not Allowed")
        if method not in _READING:
            if not self._is_same_origin(headers):
                return errors.problem(403, "ForeignOrigin", "another site's page sent this", "send it yourself")
            if not _is_json(headers):
                return errors.problem(415, "UnsupportedMediaType", "the body is not JSON", "send application/json")
        if path in OPEN or access.is_open:
            return None
        return self._unauthorised(method, path, headers)

    def _is_same_origin(self, headers: dict[str, str]) -> bool:
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None and site not in {"same-origin", "none"}:
            return False
        return origin is None or urlsplit(origin).netloc == headers.get("host") or origin in self._access.origins

    def _unauthorised(self, method: str, path: str, headers: dict[str, str]) -> ASGIApp | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        hashed = digest(token.strip())
        known = self._access.find(hashed) if scheme.lower() == "bearer" else None
        is_valid = known is not None and hmac.compare_digest(known.digest, hashed) and not self._has_expired(known)
        if known is None or not is_valid:
            hint = "'flux tokens create NAME' makes one; send it as  Authorization: Bearer TOKEN"
            return errors.problem(
                401, "Unauthorised", "a valid token is needed", hint, **{"WWW-Authenticate": "Bearer"}
            )
        needed = _role_for(method, path)
        if ROLES.index(known.role) < ROLES.index(needed):
            return errors.problem(403, "Forbidden", f"the token is of a {known.role}, and this needs an {needed}")
        return None

    def _has_expired(self, token: StoredToken) -> bool:
        return token.expires_at is not None and token.expires_at <= self._access.clock.now()


def _role_for(method: str, path: str) -> str:
    if any(path == prefix or path.startswith(f"{prefix}/") for prefix in _ADMINS):
        return "admin"
    return "viewer" if method in _READING else "operator"


def _host_of(header: str) -> str:
    """The name in a Host header, in lower case; empty if it is none."""
    try:
        parts = urlsplit(f"//{header}")
        is_name = parts.port != 0 and parts.netloc == header and parts.username is None
    except ValueError:
        return ""
    return (parts.hostname or "") if is_name else ""


def _is_json(headers: dict[str, str]) -> bool:
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return True
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
