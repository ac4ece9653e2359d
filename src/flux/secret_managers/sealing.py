"""One secret, encrypted: AES-256-GCM, bound to its name and version."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from flux.errors import SecretError
from flux.ports import SealedSecret
from flux.secret_managers.keys import Key, KeyRing

_NONCE_BYTES = 12


def seal(name: str, version: int, data: bytes, key: Key, now: int) -> SealedSecret:
    """Encrypt a secret.

    Args:
        data: Its encoded value.
        now: Microseconds since the epoch.
    """
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(key.data).encrypt(nonce, data, _bound(name, version))
    return SealedSecret(name, version, key.id, nonce + sealed, now)


def open_sealed(secret: SealedSecret, keys: KeyRing) -> bytes:
    """Decrypt a secret.

    Raises:
        SecretError: Its key is not on the ring, or the row is not what was written under this name and version.
    """
    key = keys.find(secret.key_id)
    if key is None:
        raise SecretError(
            f"the secret {secret.name!r} is encrypted with the key {secret.key_id}, which is not here: bring the key "
            f"back to {keys.path or 'FLUX_SECRET_KEYS'}, or set the secret anew"
        )
    nonce, sealed = secret.data[:_NONCE_BYTES], secret.data[_NONCE_BYTES:]
    try:
        return AESGCM(key.data).decrypt(nonce, sealed, _bound(secret.name, secret.version))
    except (InvalidTag, ValueError):
        raise SecretError(
            f"the secret {secret.name!r} is not what was stored under this name and version: its row was damaged or "
            "exchanged; set the secret anew"
        ) from None


def _bound(name: str, version: int) -> bytes:
    """What the ciphertext is valid for, besides its key: a row that is copied to another name does not open."""
    return f"{len(name)}:{name}:{version}".encode()
