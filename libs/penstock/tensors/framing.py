"""Protobuf framing of one `bytes` field by hand, without protobuf's copies.

A message whose only set field is `bytes data = N` is, on the wire, a tag, a length and the bytes. Writing those few
bytes ourselves keeps the typed contract (any generated client understands it) at the speed of a raw stream.
"""


def frame(data: bytes | memoryview, field: int = 1) -> bytes:
    """The message {data} with field number 1..15."""
    length, varint = len(data), bytearray([field << 3 | 2])
    while True:
        low, length = length & 0x7F, length >> 7
        varint.append(low | (0x80 if length else 0))
        if not length:
            return b"".join((varint, data))


def unframe(message: bytes, field: int = 1) -> memoryview | None:
    """The data of a message that holds this one field and nothing else (no copy); None if it is anything else."""
    if not message:
        return memoryview(b"")
    if message[0] != field << 3 | 2:
        return None
    length, shift = 0, 0
    for i in range(1, min(len(message), 11)):
        length |= (message[i] & 0x7F) << shift
        shift += 7
        if not message[i] & 0x80:
            return memoryview(message)[i + 1 :] if i + 1 + length == len(message) else None
    return None
