"""Where secrets are looked for, and kept."""

import asyncio
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flux import serde
from flux.clock import Clock
from flux.engine import launcher
from flux.errors import InvalidValueError, SecretError, SecretNotFoundError
from flux.ports import SealedSecret, Store
from flux.secret_managers.keys import KeyRing
from flux.secret_managers.sealing import open_sealed, seal

PREFIX, FOLDER_VARIABLE = "FLUX_SECRET_", "FLUX_SECRETS_DIR"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}\Z")
_OURS = frozenset({"FLUX_SECRET_KEYS", "FLUX_SECRET_KEY_FILE"})


class Listed(NamedTuple):
    """What may be shown of a secret.

    Args:
        name: Of the secret.
        where: "env", "file" or "store": where it is found first.
        version: Counts its values in the store; 0 elsewhere.
        updated_at: Microseconds since the epoch; None elsewhere.
    """

    name: str
    where: str
    version: int = 0
    updated_at: int | None = None


class SecretManager:
    """The secrets of one database, and of the environment and the folder that win over it.

    A secret `K` is looked for in the environment (`FLUX_SECRET_K`), then in the folder that `FLUX_SECRETS_DIR` names
    (one file for each, as container platforms mount them), then in the database, where it is encrypted.

    Args:
        store: Keeps what is saved, encrypted.
        keys: Encrypt it.
        environment: As `os.environ`.

    Example:
        >>> SecretManager.current().save("API_KEY", "s3cr3t-value")
        >>> SecretManager.current().all()
        ['API_KEY']
    """

    def __init__(
        self, store: Store, clock: Clock, *, keys: KeyRing | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._store, self._clock = store, clock
        self._environment = os.environ if environment is None else environment
        self.keys = keys or KeyRing(self._environment)

    @staticmethod
    def current() -> "SecretManager":
        """The secrets of the working directory's database."""
        manager = launcher.current().secrets
        assert isinstance(manager, SecretManager)
        return manager

    def save(self, name: str, value: Any) -> None:
        """Keep a secret in the database, in place of an older one; durable when this returns.

        Args:
            name: Letters, digits and `_`; up to 200 of them.
            value: Anything that can be recorded.

        Raises:
            InvalidValueError: The name does not fit.
            UnserializableValue: The value cannot be recorded.
            SecretError: There is no key to encrypt it with.
        """
        _check(name)
        data, key = serde.encode(value), self.keys.first()
        while True:
            version = next((each.version for each in self._store.secrets() if each.name == name), 0)
            sealed = seal(name, version + 1, data, key, self._clock.now())
            if self._store.put_secret(sealed, expected_version=version):
                return

    def remove(self, name: str) -> None:
        """Forget a secret of the database.

        Raises:
            SecretNotFoundError: There is none of that name.
        """
        if not self._store.delete_secret(name):
            raise _missing([name])

    def all(self) -> list[str]:
        """The names of all secrets, sorted; never their values."""
        return [each.name for each in self.listed()]

    def listed(self) -> list[Listed]:
        """All secrets, with where each is found first."""
        found = {each.name: Listed(each.name, "store", each.version, each.updated_at) for each in self._store.secrets()}
        found.update({name: Listed(name, "file") for name in self._names_in_folder()})
        names = (key.removeprefix(PREFIX) for key in self._environment if key.startswith(PREFIX) and key not in _OURS)
        found.update({name: Listed(name, "env") for name in names if _NAME.match(name)})
        return sorted(found.values())

    async def get(self, names: Sequence[str]) -> dict[str, Any]:
        """The secrets of these names.

        Raises:
            SecretNotFoundError: One is missing; also a ValueError.
            SecretError: One cannot be decrypted.
        """
        return await asyncio.to_thread(self.find, names)

    def find(self, names: Sequence[str]) -> dict[str, Any]:
        """`get`, where no event loop runs."""
        found: dict[str, Any] = {}
        stored: dict[str, SealedSecret] | None = None
        for name in names:
            _check(name)
            value = self._environment.get(PREFIX + name) if PREFIX + name not in _OURS else None
            value = self._from_folder(name) if value is None else value
            if value is not None:
                found[name] = value
                continue
            if stored is None:
                stored = {each.name: each for each in self._store.secrets()}
            if name in stored:
                found[name] = serde.decode(open_sealed(stored[name], self.keys))
        missing = [name for name in names if name not in found]
        if missing:
            raise _missing(missing)
        return found

    def require(self, names: Sequence[str]) -> None:
        """See that the secrets are there.

        Raises:
            SecretNotFoundError: One is missing.
        """
        self.find(names)

    def rotate(self) -> int:
        """Encrypt everything in the database with the first key, and return how many secrets that changed."""
        key, changed = self.keys.first(), 0
        for secret in self._store.secrets():
            if secret.key_id == key.id:
                continue
            data = open_sealed(secret, self.keys)
            sealed = seal(secret.name, secret.version + 1, data, key, self._clock.now())
            changed += self._store.put_secret(sealed, expected_version=secret.version)
        return changed

    def _names_in_folder(self) -> Iterable[str]:
        folder = self._environment.get(FOLDER_VARIABLE)
        if not folder:
            return []
        try:
            return [each.name for each in Path(folder).iterdir() if _NAME.match(each.name) and each.is_file()]
        except OSError as error:
            raise SecretError(f"{FOLDER_VARIABLE} names {folder}, which cannot be read: {error}") from error

    def _from_folder(self, name: str) -> str | None:
        folder = self._environment.get(FOLDER_VARIABLE)
        if not folder:
            return None
        try:
            return (Path(folder) / name).read_text("utf-8").removesuffix("\n")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise SecretError(f"the secret {name!r} cannot be read from {folder}: {error}") from error


def _check(name: object) -> None:
    if not isinstance(name, str) or not _NAME.match(name):
        raise InvalidValueError(
            f"{str(name)[:80]!r} cannot name a secret: use letters, digits and '_', up to 200, not beginning with a "
            "digit"
        )


def _missing(names: list[str]) -> SecretNotFoundError:
    return SecretNotFoundError(f"The following secrets were not found: {names}")
