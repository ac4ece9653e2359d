"""What a history holds in place of a value that is kept elsewhere.

Recorded references name this module: it stays where it is.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class OutputStorageReference:
    """Where a value is kept.

    Args:
        storage_type: Of which kind of storage it is.
        reference_id: By which that storage knows the value.
        metadata: What else the storage needs to find and to check it; of types that Flux records.
    """

    storage_type: str
    reference_id: str
    metadata: dict[str, Any] = field(default_factory=dict)
