"""The only serialiser: values and errors as bytes that a history keeps, read back exactly."""

from flux.serde.annotations import adapter, validate
from flux.serde.codec import decode, decode_arguments, encode, encode_arguments, encode_failure, is_plain
from flux.serde.display import display, to_display
from flux.serde.tracebacks import traceback_of

__all__ = [
    "adapter",
    "decode",
    "decode_arguments",
    "display",
    "encode",
    "encode_arguments",
    "encode_failure",
    "is_plain",
    "to_display",
    "traceback_of",
    "validate",
]
