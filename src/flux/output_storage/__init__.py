"""Values kept outside the history: what keeps them, and the references that the history holds instead."""

from flux.output_storage.inline import InlineOutputStorage
from flux.output_storage.local_file import LocalFileStorage
from flux.output_storage.reference import OutputStorageReference
from flux.output_storage.storage import OutputStorage

__all__ = ["InlineOutputStorage", "LocalFileStorage", "OutputStorage", "OutputStorageReference"]
