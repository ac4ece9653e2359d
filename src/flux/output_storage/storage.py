"""What every output storage does, and what a storage of one's own is derived from."""

from abc import ABC, abstractmethod
from typing import Any

from flux.errors import InvalidValueError
from flux.output_storage.reference import OutputStorageReference


class OutputStorage(ABC):
    """Keeps values outside the history, which holds a reference to each.

    Its methods are synchronous, and may be called from any thread.

    Example:
        >>> reference = storage.store("report_1", {"pages": 3})
        >>> storage.retrieve(reference)
        {'pages': 3}
    """

    @abstractmethod
    def store(self, reference_id: str, value: Any) -> OutputStorageReference:
        """Keep a value; on return it is durable.

        Storing another value under the same id replaces the first: a task that is repeated after a crash does so.

        Args:
            reference_id: Any text that is not empty.
            value: Of types that Flux records.

        Raises:
            UnserializableValue: The value is of another type; the message names the path to it.
            InvalidValueError: The id is no text, or empty.
            StoreError: It cannot be written.
        """

    @abstractmethod
    def retrieve(self, reference: OutputStorageReference) -> Any:
        """The value that `store` gave the reference for.

        Raises:
            InvalidValueError: The reference is of another storage.
            NotFoundError: The value is gone.
            CorruptedDatabaseError: What is there is not what was stored.
            StoreError: It cannot be read.
        """

    @abstractmethod
    def delete(self, reference: OutputStorageReference) -> None:
        """Keep the value no longer; harmless when it is gone already.

        Raises:
            InvalidValueError: The reference is of another storage.
            StoreError: It cannot be deleted.
        """


def check_id(reference_id: str) -> None:
    """Refuse what cannot be the id of a reference.

    Raises:
        InvalidValueError: It is no text, or empty.
    """
    if not isinstance(reference_id, str) or not reference_id:
        raise InvalidValueError(f"a reference has the id {reference_id!r}: use a text that is not empty")


def check_type(reference: OutputStorageReference, storage_type: str) -> None:
    """Refuse the reference of another kind of storage.

    Raises:
        InvalidValueError: It is one.
    """
    if reference.storage_type != storage_type:
        raise InvalidValueError(
            f"the value {reference.reference_id[:80]!r} is kept in a storage of type {reference.storage_type!r}, and "
            f"this one is of type {storage_type!r}: ask the storage that gave the reference"
        )
