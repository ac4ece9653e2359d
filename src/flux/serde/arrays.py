"""Arrays and scalars of numpy as trees and back; this module is for their exact bits, and never imports numpy unasked.

An array is kept as the `.npy` file that it would be: its type, byte order, shape and order in memory are in there.
"""

from binascii import a2b_base64, b2a_base64
from io import BytesIO
from typing import Any

from flux.serde.classes import package
from flux.serde.tagging import FAMILIES, Refused, Tagger, Writer, shown
from flux.serde.untagging import READERS, Untagger

# Not long doubles: their bytes are those of one kind of machine, and some mean nothing, so that equal ones differ.
_NUMBERS = frozenset("?bhilqpBHILQPefdFD")
_TYPES = _NUMBERS | frozenset("SUVMm")
_VERSION = 3, 0  # It holds every header; left to itself, numpy warns of those that need it.
_MAX_HEADER = 1 << 20  # Characters; a structured type of very many fields needs more than numpy's 10,000.


def array_tree(_: Tagger, value: Any, __: int) -> Any:
    """The tree for an array.

    Raises:
        Refused: A `.npy` file would not hold it exactly.
    """
    dtype, file = value.dtype, BytesIO()
    if dtype.hasobject and dtype.char in "OV":
        raise Refused(
            "an array of dtype object holds references to anything: give it the dtype of what is in it, or make it a"
            " list with tolist()"
        )
    if not _is_exact(dtype):
        raise Refused(f"an array of {shown(dtype)} cannot be recorded: change its dtype with astype()")
    try:
        if dtype.names is not None and package("numpy.lib.recfunctions").repack_fields(dtype, recurse=True) != dtype:
            raise ValueError("between its fields are bytes that belong to none, see repack_fields()")
        package("numpy").lib.format.write_array(file, value, version=_VERSION, allow_pickle=False)
        data = file.getvalue()
        if dtype.char == "V":
            _check_structure(dtype, _loaded(data).dtype)
    except ValueError as error:
        raise Refused(f"an array of {shown(dtype)} cannot be recorded: {error}") from None
    return {"~ndarray": b2a_base64(data, newline=False).decode("ascii")}


def _is_exact(dtype: Any) -> bool:
    dtype = dtype.base
    if dtype.names is not None and not all(_is_exact(dtype[name]) for name in dtype.names):
        return False
    return dtype.char in _TYPES and dtype.metadata is None


def _check_structure(dtype: Any, read: Any) -> None:
    if read != dtype or read.type is not dtype.type:
        raise Refused(f"an array of {shown(dtype)} would come back as one of {shown(read)}")


def _loaded(data: bytes) -> Any:
    file = BytesIO(data)
    if data[6:8] != bytes(_VERSION):
        raise ValueError("an array of another version")
    array = package("numpy").lib.format.read_array(file, allow_pickle=False, max_header_size=_MAX_HEADER)
    if file.read(1):
        raise ValueError("bytes after an array")
    return array


def _scalar(tagger: Tagger, value: Any, depth: int) -> Any:
    char = value.dtype.char
    if char in "SU":  # As arrays, and by str(), they would lose the zeros at their ends.
        return {"~numpy": [_name(value), tagger.tag(bytes(value) if char == "S" else str.__str__(value), depth)]}
    if char in _NUMBERS:
        return {"~numpy": [_name(value), tagger.tag(value.item(), depth)]}
    return {"~numpy": ["", array_tree(tagger, package("numpy").asarray(value), depth)]}


def _name(value: Any) -> str:
    name = type(value).__name__
    return "bool_" if name == "bool" else name  # Its name of before numpy 2, too.


def _read_scalar(untagger: Untagger, payload: Any) -> Any:
    name, tree = payload
    held, numpy = untagger.untag(tree), package("numpy")
    if not name:
        return held[()]
    kind = getattr(numpy, name)
    if not (isinstance(kind, type) and issubclass(kind, numpy.generic)):
        raise TypeError(f"{name} is no scalar type of numpy")
    return kind(held)


def _writer(kind: type) -> Writer | None:
    numpy = package("numpy")
    if kind is numpy.ndarray:
        return array_tree
    return _scalar if issubclass(kind, numpy.generic) else None


FAMILIES["numpy"] = _writer
READERS["~ndarray"] = lambda _, payload: _loaded(a2b_base64(payload))
READERS["~numpy"] = _read_scalar
