"""The keys that secrets are encrypted with: made on first use, and never kept beside the database."""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flux import files
from flux.errors import SecretError

KEY_BYTES = 32
VARIABLE, FILE_VARIABLE = "FLUX_SECRET_KEYS", "FLUX_SECRET_KEY_FILE"
_OTHERS_MAY = 0o077


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """One key.

    Args:
        id: By which a secret names the key that it is encrypted with; a digest of it, so it tells nothing.
        data: 32 bytes.
    """

    id: str
    data: bytes

    @classmethod
    def of(cls, data: bytes) -> "Key":
        """The key of these bytes."""
        return cls(hashlib.sha256(b"flux key id\0" + data).hexdigest()[:16], data)


class KeyRing:
    """All keys, read when the first secret is used: the first encrypts, each decrypts what it has encrypted.

    They come from `FLUX_SECRET_KEYS` (base64, separated by commas), or else from a file in the user's configuration
    folder that only its owner can read, one key a line, which is made when there is none.

    Args:
        environment: As `os.environ`.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._keys: list[Key] | None = None

    @property
    def path(self) -> Path | None:
        """The file of the keys; None if they are in the environment."""
        if self._environment.get(VARIABLE):
            return None
        chosen = self._environment.get(FILE_VARIABLE)
        if chosen:
            return Path(chosen).expanduser()
        folder = self._environment.get("XDG_CONFIG_HOME") or "~/.config"
        return Path(folder).expanduser() / "flux" / "secret.keys"

    def first(self) -> Key:
        """The key that encrypts.

        Raises:
            SecretError: The keys cannot be read, or are readable for others.
        """
        return self._all()[0]

    def find(self, key_id: str) -> Key | None:
        """The key of this id, if it is on the ring."""
        return next((key for key in self._all() if key.id == key_id), None)

    def signing_keys(self) -> list[bytes]:
        """Keys to sign with, one for each: the first signs, each verifies."""
        return [hmac.digest(key.data, b"flux signature", "sha256") for key in self._all()]

    def add(self) -> Key:
        """Make a key and put it first, so that it encrypts from now on; the older ones stay for what they encrypted.

        Raises:
            SecretError: The keys are in the environment, or their file cannot be written.
        """
        path = self.path
        if path is None:
            raise SecretError(
                f"the keys are in {VARIABLE}, which Flux cannot change: put a new key first there, "
                "separated by a comma from the older ones, then rotate again"
            )
        key = Key.of(secrets.token_bytes(KEY_BYTES))
        _write(path, [key, *(self._read(path) if path.exists() else [])])
        self._keys = None
        return key

    def _all(self) -> list[Key]:
        if self._keys is None:
            path = self.path
            if path is None:
                self._keys = _parse(self._environment[VARIABLE].split(","), VARIABLE)
            elif path.exists():
                self._keys = self._read(path)
            else:
                self._keys = self._make(path)
        return self._keys

    def _make(self, path: Path) -> list[Key]:
        """Make the first key; of two processes that do so at once, one wins."""
        key = Key.of(secrets.token_bytes(KEY_BYTES))
        try:
            files.make_folder(path.parent)
            path.parent.chmod(0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return self._read(path)
        except OSError as error:
            raise SecretError(
                f"no key for secrets could be made at {path}: {error}. Make that folder writable, name another file "
                f"in {FILE_VARIABLE}, or put a key into {VARIABLE}"
            ) from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(_line(key))
            file.flush()
            os.fsync(descriptor)
        files.sync_folder(path.parent)
        return [key]

    def _read(self, path: Path) -> list[Key]:
        try:
            mode = path.stat().st_mode
            if mode & _OTHERS_MAY:
                raise SecretError(f"{path} can be read by others: 'chmod 600 {path}', and rotate the keys")
            return _parse(path.read_text("ascii").split(), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise SecretError(f"the keys cannot be read from {path}: {error}") from error


def _parse(texts: list[str], where: str) -> list[Key]:
    keys = [Key.of(_decoded(text.strip(), where)) for text in texts if text.strip()]
    if not keys:
        raise SecretError(f"{where} holds no key: put {KEY_BYTES} random bytes there, in base64")
    return keys


def _decoded(text: str, where: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != KEY_BYTES:
        raise SecretError(f"{where} holds something that is no key: each is {KEY_BYTES} bytes in base64")
    return data


def _write(path: Path, keys: list[Key]) -> None:
    try:
        before = os.umask(_OTHERS_MAY)
        try:
            files.write(path, b"".join(map(_line, keys)))
        finally:
            os.umask(before)
    except OSError as error:
        raise SecretError(f"the keys cannot be written to {path}: {error}") from error


def _line(key: Key) -> bytes:
    return base64.b64encode(key.data) + b"\n"
