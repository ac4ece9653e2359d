"""Tokens: long and random, shown once, and stored as a hash."""

import hashlib
import re
import secrets

from flux.catalogue import Catalogue, StoredToken
from flux.clock import Clock
from flux.errors import ExecutionConflictError, InvalidValueError, NotFoundError

ROLES = ("viewer", "operator", "admin")
BITS, PREFIX = 256, "flux_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,99}\Z")


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def create(
    catalogue: Catalogue, clock: Clock, name: str, *, role: str, expires_in_seconds: float | None
) -> tuple[StoredToken, str]:
    """Make a token: what is stored of it, and its text, which is not.

    Raises:
        InvalidValueError: The name does not fit.
        ExecutionConflictError: It is taken.
    """
    if not _NAME.match(name):
        raise InvalidValueError(
            f"{name[:80]!r} cannot name a token: use 1 to 100 letters, digits and '_.:@-', beginning with a letter or "
            "a digit"
        )
    text = PREFIX + secrets.token_urlsafe(BITS // 8)
    now = clock.now()
    expires_at = None if expires_in_seconds is None else now + round(expires_in_seconds * 1_000_000)
    token = StoredToken(name=name, digest=digest(text), role=role, created_at=now, expires_at=expires_at)
    if not catalogue.add_token(token):
        raise ExecutionConflictError(f"there is a token {name!r} already: revoke it first, or choose another name")
    return token, text


def revoke(catalogue: Catalogue, name: str) -> None:
    """Revoke a token.

    Raises:
        NotFoundError: There is none of that name.
    """
    if not catalogue.delete_token(name):
        raise NotFoundError(f"there is no token {name!r}: 'flux tokens list' names them")
