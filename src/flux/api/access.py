"""Who may do what: tokens, their roles, and how often one may guess."""

import hmac
import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from flux.api.errors import RefusedError
from flux.catalogue import StoredToken
from flux.clock import Clock
from flux.server.tokens import ROLES, digest

READING = frozenset({"GET", "HEAD"})
_ADMINS = ("/api/tokens", "/api/secrets")
_MINUTE = 60_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is taken.

    Args:
        body_bytes: The largest body.
        body_seconds: By when it has arrived.
        failures_each: Invalid tokens of one address that are answered in a minute.
        failures: Those of all addresses together.
        streams_each: Event streams of one token, or of one address where no token is needed.
        streams: Those of all together.
        recheck_seconds: How often the token of an open stream is looked at.
    """

    body_bytes: int = 4 * 1024 * 1024
    body_seconds: float = 9.5
    failures_each: int = 10
    failures: int = 100
    streams_each: int = 10
    streams: int = 200
    recheck_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what.

    Args:
        hosts: Names by which the server may be addressed, without ports, in lower case.
        find: Finds a token by its hash.
        clock: Tells whether it has expired.
        is_open: Whether no token is needed: the server listens on loopback only.
        origins: Other origins whose pages may send requests.
        any_address: Whether it may be addressed by any IP address: it listens on all, and no page can forge one.
        limits: How much is taken.
    """

    hosts: Collection[str]
    find: Callable[[bytes], StoredToken | None]
    clock: Clock
    is_open: bool
    origins: Collection[str] = field(default_factory=frozenset)
    any_address: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Caller:
    """By whom a request is sent: the holder of a token, or an address where none is needed."""

    key: str
    digest: bytes | None


def role_for(method: str, path: str) -> str:
    """The least role that may send this."""
    if any(path == prefix or path.startswith(f"{prefix}/") for prefix in _ADMINS):
        return "admin"
    return "viewer" if method in READING else "operator"


class Gate:
    """Finds out who calls, and whether that may do it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._failures = Failures(access.limits)

    def caller(self, authorization: str, address: str, method: str, path: str) -> Caller:
        """The holder of the token that came with a request.

        Raises:
            RefusedError: There is none, or it is not valid, or its role is too low.
        """
        if not authorization:
            raise _unauthorised("a token is needed")
        scheme, _, token = authorization.partition(" ")
        hashed = digest(token.strip())
        known = self._find(hashed) if scheme.lower() == "bearer" else None
        if known is None:
            self._fail(address)
            raise _unauthorised("the token is not valid: it is wrong, has expired, or was revoked")
        needed = role_for(method, path)
        if ROLES.index(known.role) < ROLES.index(needed):
            raise RefusedError(
                403, "Forbidden", f"the token is of a {known.role}", f"use one whose role is {needed} or above"
            )
        return Caller(f"token {known.name}", hashed)

    def holds(self, caller: Caller) -> bool:
        """Whether its token still counts."""
        return caller.digest is None or self._find(caller.digest) is not None

    def _find(self, hashed: bytes) -> StoredToken | None:
        known = self._access.find(hashed)
        if known is None or not hmac.compare_digest(known.digest, hashed):
            return None
        is_over = known.expires_at is not None and known.expires_at <= self._access.clock.now()
        return None if is_over else known

    def _fail(self, address: str) -> None:
        seconds = self._failures.add(address, self._access.clock.now())
        if seconds:
            raise RefusedError(
                429,
                "TooManyFailures",
                "too many invalid tokens were sent",
                f"wait {seconds} s; a valid token is answered all the same",
                **{"Retry-After": str(seconds)},
            )


class Failures:
    """How often an address, and everybody together, sent an invalid token within the last minute."""

    ADDRESSES = 1000  # Beyond, the one that failed longest ago is forgotten; what all may do bounds what that gives.

    def __init__(self, limits: Limits) -> None:
        self._each, self._all = limits.failures_each, limits.failures
        self._total: deque[int] = deque()
        self._of: OrderedDict[str, deque[int]] = OrderedDict()

    def add(self, address: str, now: int) -> int:
        """Count a failure; returns the seconds to wait if there were too many, and else 0."""
        key = _network(address)
        mine = self._of.setdefault(key, deque())
        self._of.move_to_end(key)
        if len(self._of) > self.ADDRESSES:
            self._of.popitem(last=False)
        for moments, most in ((mine, self._each), (self._total, self._all)):
            while moments and (moments[0] <= now - _MINUTE or moments[0] > now):
                moments.popleft()
            if len(moments) >= most:
                return (moments[0] + _MINUTE - now) // 1_000_000 + 1
        mine.append(now)
        self._total.append(now)
        return 0


def _network(address: str) -> str:
    """What one client has: of IPv6, a network of 64 bits."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((address, 64), strict=False)) if found.version == 6 else address


def _unauthorised(message: str) -> RefusedError:
    hint = "'flux tokens create NAME' makes one; send it as  Authorization: Bearer TOKEN"
    return RefusedError(401, "Unauthorised", message, hint, **{"WWW-Authenticate": "Bearer"})
