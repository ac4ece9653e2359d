"""The only serialiser: values and errors as bytes that a history keeps, read back exactly."""

from flux.serde.annotations import adapter, validate
from flux.serde.codec import (
    NAME_MARK,
    PLAIN,
    decode,
    decode_arguments,
    decode_recorded,
    encode,
    encode_arguments,
    encode_by_name,
    encode_failure,
    encode_pickled,
    encode_pickled_arguments,
    is_text,
    rewritten,
)
from flux.serde.display import display, display_traceback, to_display
from flux.serde.keys import install_keys
from flux.serde.tracebacks import traceback_of

__all__ = [
    "NAME_MARK",
    "PLAIN",
    "adapter",
    "decode",
    "decode_arguments",
    "decode_recorded",
    "display",
    "display_traceback",
    "encode",
    "encode_arguments",
    "encode_by_name",
    "encode_failure",
    "encode_pickled",
    "encode_pickled_arguments",
    "install_keys",
    "is_text",
    "rewritten",
    "to_display",
    "traceback_of",
    "validate",
]
