"""Messages of any size over a channel; this module is for what a process and its children tell each other."""

import os
import struct

_LENGTH = struct.Struct(">Q")


def send(channel: int, *messages: bytes) -> None:
    """Write messages, each after its length.

    Raises:
        OSError: The other side is gone.
    """
    for message in messages:
        for part in (_LENGTH.pack(len(message)), message):
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(channel, rest) :]


def receive(channel: int) -> bytes:
    """Read one message.

    Raises:
        EOFError, OSError: The other side is gone, and the message has not come whole.
    """
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size))
    return bytes(_read(channel, length))


def _read(channel: int, length: int) -> bytearray:
    data = bytearray(length)
    rest = memoryview(data)
    while rest:
        count = os.readv(channel, [rest])
        if not count:
            raise EOFError
        rest = rest[count:]
    return data
