"""Identifiers: made time-ordered, checked when users bring their own."""

import hashlib
import os
import re
import time

from flux.errors import InvalidInputError, StoreError

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,199}$"  # As JSON Schema has it, where $ is the very end.
_ALLOWED = re.compile(ID_PATTERN[:-1] + r"\Z")
_FILE_NAME = re.compile(r"[A-Za-z0-9_.:@-]{1,200}\Z")
_OURS = re.compile(r"[0-9a-f]{32}\Z")


def new_id() -> str:
    """Make an identifier of 32 hex digits; later ones sort after earlier ones, so inserts stay cheap.

    The layout is that of UUID version 7 (RFC 9562): 48 bits of Unix milliseconds, then random bits.
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def child_id(parent_id: str, generation: int, call_id: str) -> str:
    """The id of the child execution that a call of another is: the same in every replay, and sorted with its parent.

    Args:
        generation: How often the parent was started over, plus one.
    """
    digest = hashlib.blake2b(f"{parent_id}\n{generation}\n{call_id}".encode(), digest_size=16).hexdigest()
    is_ours = _OURS.match(parent_id) is not None
    return parent_id[:12] + digest[12:] if is_ours else digest


def check_id(execution_id: str) -> str:
    """Return the id of an execution that a user chose, or refuse it.

    Raises:
        InvalidInputError: It is not 1 to 200 letters, digits and `_ . : @ -`, beginning with a letter or digit.
    """
    if not isinstance(execution_id, str) or not _ALLOWED.match(execution_id):
        raise InvalidInputError(
            f"{str(execution_id)[:80]!r} cannot be an execution id: use 1 to 200 letters, digits and '_.:@-', "
            "beginning with a letter or a digit"
        )
    return execution_id


def check_worker(worker: str) -> None:
    """Refuse the id of a worker that could not name its lock file.

    Raises:
        StoreError: It is not 1 to 200 letters, digits and `_ . : @ -`.
    """
    if not _FILE_NAME.match(worker):
        raise StoreError(
            f"worker id {worker[:80]!r} cannot name its lock file: use 1 to 200 letters, digits and '_.:@-'"
        )
