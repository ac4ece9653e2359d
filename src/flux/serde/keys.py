"""The keys that pickles are signed with, and what pickles begin with: known without importing what pickles."""

from collections.abc import Callable

from flux.errors import SecretError

PICKLED = b"p1"
_find_keys: Callable[[], list[bytes]] | None = None


def install_keys(find_keys: Callable[[], list[bytes]]) -> None:
    """Fill the slot: `find_keys` returns the keys to sign with; the first signs, each verifies."""
    global _find_keys  # noqa: PLW0603 - the one slot.
    _find_keys = find_keys


def signing_keys() -> list[bytes]:
    """The keys, the one that signs first.

    Raises:
        SecretError: There are none.
    """
    keys = _find_keys() if _find_keys is not None else []
    if not keys:
        raise SecretError("serializer='pickle' signs with the app's key ring, and there is none: import `flux`")
    return keys
