"""The keys that secrets are encrypted with: made on first use, and never kept beside the database."""

import base64
import binascii
import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        folder = self._environment.get("XDG_CONFIG_HOME") or "~/.config"
        chosen = self._environment.get(FILE_VARIABLE) or f"{folder}/flux/secret.keys"
        try:
            return Path(chosen).expanduser()
        except RuntimeError as error:
            raise SecretError(
                f"the user's folder is not known, so there is no place for the keys of secrets: name a file in "
                f"{FILE_VARIABLE}, or put a key into {VARIABLE}"
            ) from error

    def first(self) -> Key:
        """The key that encrypts; made, if there is none.

        Raises:
            SecretError: The keys cannot be read, or are readable for others, or none can be made.
        """
        return self.all()[0] if self.all() else self.add(only_if_none=True)

    def find(self, key_id: str) -> Key | None:
        """The key of this id, if it is on the ring.

        Raises:
            SecretError: The keys cannot be read, or are readable for others.
        """
        found = self._find(key_id)
        if found is None:
            self._keys = None  # Another process may have added it since.
            found = self._find(key_id)
        return found

    def _find(self, key_id: str) -> Key | None:
        return next((key for key in self.all() if key.id == key_id), None)

    def signing_keys(self) -> list[bytes]:
        """Keys to sign with, one for each: the first signs, each verifies."""
        self.first()
        return [hmac.digest(key.data, b"flux signature", "sha256") for key in self.all()]

    def add(self, *, only_if_none: bool = False) -> Key:
        """Make a key and put it first, so that it encrypts from now on; the older ones stay for what they encrypted.

        Args:
            only_if_none: Take the first that there is, if another process has made one meanwhile.

        Raises:
            SecretError: The keys are in the environment, or their file cannot be written.
        """
        path = self.path
        if path is None:
            raise SecretError(
                f"the keys are in {VARIABLE}, which Flux cannot change: put a new key first there, with a comma before "
                "the older ones, then rotate again"
            )
        try:
            if not path.parent.is_dir():
                files.make_folder(path.parent)
                path.parent.chmod(0o700)
            with _alone_in(path.parent):
                keys = _read(path)
                if not (keys and only_if_none):
                    keys.insert(0, Key.of(secrets.token_bytes(KEY_BYTES)))
                    files.write(path, b"".join(map(_line, keys)), mode=0o600)
        except OSError as error:
            raise SecretError(
                f"no key for secrets could be written to {path}: {error}. Make its folder writable for this user, name "
                f"another file in {FILE_VARIABLE}, or put a key into {VARIABLE}"
            ) from error
        self._keys = keys
        return keys[0]

    def all(self) -> list[Key]:
        """All keys, the one that encrypts first; empty if none was made yet.

        Raises:
            SecretError: They cannot be read, or are readable for others.
        """
        if self._keys is None:
            path = self.path
            if path is None:
                self._keys = _parse(self._environment[VARIABLE].split(","), VARIABLE)
            else:
                self._keys = _read(path) or None
        return self._keys or []


def _read(path: Path) -> list[Key]:
    """The keys of a file; none if it is not there."""
    try:
        if path.stat().st_mode & _OTHERS_MAY:
            raise SecretError(f"{path} can be read by others: 'chmod 600 {path}', then 'flux secrets rotate'")
        return _parse(path.read_text("ascii").split(), str(path))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise SecretError(
            f"the keys cannot be read from {path}: {error}; make it readable for this user, or put a backup there"
        ) from error


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


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from writing keys: of two rings that are written at once, one would be lost."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _line(key: Key) -> bytes:
    return base64.b64encode(key.data) + b"\n"
