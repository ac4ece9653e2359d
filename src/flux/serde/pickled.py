"""Values that no codec holds, pickled and signed; this is the only module that pickles.

A pickle is a program, and reading it runs it. So whoever can write to the database could run code in every worker, were
it not for the signature: it is made with the app's key, and checked before one byte of a pickle is read.
"""

import hmac
import pickle
from io import BytesIO
from typing import Any

from flux.errors import CorruptedDatabaseError, NotFoundError
from flux.serde.classes import MAIN, NotLoadedError, find, main_name, name_of
from flux.serde.keys import PICKLED, signing_keys
from flux.serde.tagging import Refused, shown_type

_SIGNATURE_BYTES = 32
_START = len(PICKLED) + _SIGNATURE_BYTES


def write(value: object) -> bytes:
    """The bytes for a value: prefix, signature, pickle.

    Raises:
        Refused: It cannot be pickled, or not read back.
        SecretError: There are no keys.
    """
    data = _dumped(value)
    _loaded_again(value, data)
    return PICKLED + _signature(signing_keys()[0], data) + data


def read(data: bytes) -> Any:
    """The value that `write` gave the bytes for.

    Raises:
        CorruptedDatabaseError: They are not signed with a key of the ring; nothing of them was read.
        NotFoundError: A module, a class or a function in it is not there any more.
        SecretError: There are no keys.
    """
    signature, pickled = data[len(PICKLED) : _START], data[_START:]
    if not any(hmac.compare_digest(signature, _signature(key, pickled)) for key in signing_keys()):
        raise CorruptedDatabaseError(
            "A pickled value is not signed with a key of the key ring, so it was not read: it is damaged, forged, or"
            " signed with a key that was removed. Put the key that was used back into FLUX_SECRET_KEYS or the file of"
            " keys, behind the first."
        )
    try:
        return _Unpickler(BytesIO(pickled)).load()
    except (ImportError, AttributeError, NotLoadedError) as missing:
        raise NotFoundError(
            f"A pickled value holds something that is not there any more ({missing}): put it back where it was."
        ) from missing
    except Exception as error:
        # Its classes take part in reading it, and they may have changed.
        raise CorruptedDatabaseError(
            f"A pickled value cannot be read, its classes raise {error!r}: they must read what they wrote before."
        ) from error


def copied(value: object) -> Any:
    """A copy of a value, made by pickle.

    Raises:
        Refused: As `write`.
    """
    return _loaded_again(value, _dumped(value))


def shown(data: bytes) -> str:
    """A text for a pickled value, which is not read for that."""
    return f"<pickle, {max(len(data) - _START, 0):,} bytes>"


def _signature(key: bytes, pickled: bytes) -> bytes:
    return hmac.digest(key, b"flux " + PICKLED + b"\0" + pickled, "sha256")


class _Pickler(pickle.Pickler):
    """Refers to what a script defines by the script's name: it is not `__main__` in every process."""

    def reducer_override(self, value: Any) -> Any:
        if getattr(value, "__module__", None) in MAIN and hasattr(value, "__qualname__"):
            return find, (name_of(value),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Finds what the script of this process defines in it, and does not import, which is to run, it once more."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return find(f"{module}:{name}")
        except NotLoadedError:
            if module == main_name():
                raise
            return super().find_class(module, name)


def _dumped(value: object) -> bytes:
    file = BytesIO()
    try:
        _Pickler(file, protocol=5).dump(value)
    except Exception as error:  # noqa: BLE001 - classes of users take part in this, and may raise anything.
        raise Refused(f"a {shown_type(type(value))} cannot be recorded, nor pickled ({error})") from None
    return file.getvalue()


def _loaded_again(value: object, data: bytes) -> Any:
    try:
        return _Unpickler(BytesIO(data)).load()
    except Exception as error:  # noqa: BLE001 - as above.
        why = f"a {shown_type(type(value))} can be pickled, but not read back ({type(error).__name__}: {error})"
        raise Refused(why) from None
