"""A storage for small values: the reference holds the value."""

from typing import Any

from flux import serde
from flux.errors import NotFoundError
from flux.output_storage.reference import OutputStorageReference
from flux.output_storage.storage import OutputStorage, check_id, check_type

_TYPE, _VALUE = "inline", "value"


class InlineOutputStorage(OutputStorage):
    """Keeps each value in the metadata of its reference, and so in the history."""

    def store(self, reference_id: str, value: Any) -> OutputStorageReference:
        check_id(reference_id)
        copy = serde.decode(serde.encode(value))  # What is recorded does not change when the value does.
        return OutputStorageReference(_TYPE, reference_id, {_VALUE: copy})

    def retrieve(self, reference: OutputStorageReference) -> Any:
        check_type(reference, _TYPE)
        if _VALUE not in reference.metadata:
            raise NotFoundError(
                f"the inline reference {reference.reference_id[:80]!r} holds no value: it was not made by a storage; "
                "use the one that store() returned"
            )
        return reference.metadata[_VALUE]

    def delete(self, reference: OutputStorageReference) -> None:
        check_type(reference, _TYPE)  # The value goes with the history that holds it.
