"""Where secrets are looked for, and kept."""

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flux import serde
from flux.clock import Clock
from flux.domain.definitions import secret_names
from flux.engine import launcher
from flux.engine.calls import current_body
from flux.errors import BodyError, InvalidValueError, SecretError, SecretNotFoundError
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
        """The secrets of the working directory's database.

        Raises:
            BodyError: This is the body of a workflow.
        """
        if current_body() is not None:
            raise BodyError(
                "secrets were asked for in the body of a workflow, whose calls are recorded: let the @task that needs "
                "one name it in its secret_requests"
            )
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
        check_name(name)
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
        return sorted((found | outside(self._environment)).values())

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
        names = secret_names(names)
        for name in names:
            check_name(name)
            value = (PREFIX + name not in _OURS and self._environment.get(PREFIX + name)) or self._from_folder(name)
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

    def rotate(self) -> int:
        """Make a new key, encrypt everything in the database with it, and return how many secrets that were.

        With keys in the environment, it is the first of them that is used; somebody must have put it there.  It may
        be repeated after a failure: what is encrypted with an older key can be read all the time.

        Raises:
            SecretError: The environment has no new key, or a secret cannot be decrypted.
        """
        stored = self._store.secrets()
        for secret in stored:
            open_sealed(secret, self.keys)  # First see that it can be done.
        is_made = self.keys.path is None and any(secret.key_id != self.keys.first().id for secret in stored)
        key, changed = self.keys.first() if is_made else self.keys.add(), 0
        # Not the keys of others who do the same now: they would encrypt again what this encrypts, for ever.
        older = {each.id for each in self.keys.all()} - {key.id}
        while old := [secret for secret in self._store.secrets() if secret.key_id in older]:
            for secret in old:
                data = open_sealed(secret, self.keys)
                sealed = seal(secret.name, secret.version + 1, data, key, secret.updated_at)
                changed += self._store.put_secret(sealed, expected_version=secret.version)
        return changed

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


def outside(environment: Mapping[str, str]) -> dict[str, Listed]:
    """The secrets that win over those of a database, by name.

    Raises:
        SecretError: The folder of secrets cannot be read.
    """
    found: dict[str, Listed] = {}
    folder = environment.get(FOLDER_VARIABLE)
    try:
        for file in Path(folder).iterdir() if folder else ():
            if _NAME.match(file.name) and file.is_file():
                found[file.name] = Listed(file.name, "file")
    except OSError as error:
        raise SecretError(
            f"{FOLDER_VARIABLE} names {folder}, which cannot be read: {error}; correct or unset it"
        ) from error
    for variable, value in environment.items():
        name = variable.removeprefix(PREFIX)
        if name != variable and value and variable not in _OURS and _NAME.match(name):
            found[name] = Listed(name, "env")
    return found


def check_name(name: object) -> None:
    """Raises: InvalidValueError: It cannot name a secret."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise InvalidValueError(
            f"{str(name)[:80]!r} cannot name a secret: use letters, digits and '_', up to 200, not beginning with a "
            "digit"
        )


def _missing(names: list[str]) -> SecretNotFoundError:
    return SecretNotFoundError(f"The following secrets were not found: {names}")
