"""A storage in a folder: one file for each value."""

import hashlib
from pathlib import Path
from typing import Any

from flux import files, serde
from flux.errors import CorruptedDatabaseError, NotFoundError, StoreError
from flux.output_storage.reference import OutputStorageReference
from flux.output_storage.storage import OutputStorage, check_id, check_type

_TYPE = "local_file"


class LocalFileStorage(OutputStorage):
    """Keeps each value in a file of its own, in the form in which histories hold values.

    A file is replaced as a whole or not at all, is on the disk when `store` returns, and is checked when it is read.
    Whatever the id of a reference is, its file lies in the folder.

    Args:
        base_path: The folder, relative to the working directory; it is made when the first value is stored.

    Example:
        >>> storage = LocalFileStorage("/data/outputs")
    """

    def __init__(self, base_path: str | Path = ".flux/outputs") -> None:
        self.base_path = Path(base_path).absolute()

    def store(self, reference_id: str, value: Any) -> OutputStorageReference:
        check_id(reference_id)
        data = serde.encode(value)
        path = self._path(reference_id)
        try:
            files.write(path, data)
        except OSError as error:
            raise StoreError(
                f"the output {reference_id[:80]!r} cannot be written to {path}: {error}. Nothing was replaced; see "
                "that the disk has space and that the folder is writable, then run it again"
            ) from error
        return OutputStorageReference(_TYPE, reference_id, {"size": len(data), "sha256": _digest(data)})

    def retrieve(self, reference: OutputStorageReference) -> Any:
        path = self._path_of(reference)
        try:
            data = files.read(path)
        except FileNotFoundError:
            raise NotFoundError(
                f"the output {reference.reference_id[:80]!r} is not in {path}: the file was deleted or moved, or was "
                f"stored in another folder than {self.base_path}; restore it from a backup, or give the storage the "
                "folder that it had"
            ) from None
        except OSError as error:
            raise StoreError(
                f"the output {reference.reference_id[:80]!r} cannot be read from {path}: {error}. Make it a readable "
                "file; symbolic links are not followed"
            ) from error
        if _digest(data) != reference.metadata.get("sha256"):
            raise CorruptedDatabaseError(
                f"the output {reference.reference_id[:80]!r} in {path} is not what was stored: the file was damaged, "
                "or replaced since. Nothing of it is served; restore it from a backup"
            )
        return serde.decode(data)

    def delete(self, reference: OutputStorageReference) -> None:
        path = self._path_of(reference)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"the output {reference.reference_id[:80]!r} cannot be deleted from {path}: {error}. Make the folder "
                "writable, then delete it again"
            ) from error

    def _path_of(self, reference: OutputStorageReference) -> Path:
        check_type(reference, _TYPE)
        check_id(reference.reference_id)
        return self._path(reference.reference_id)

    def _path(self, reference_id: str) -> Path:
        return self.base_path / f"{files.name_for(reference_id)}.value"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
