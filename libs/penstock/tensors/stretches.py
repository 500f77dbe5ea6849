"""How a version's bytes are pushed over a bulk socket, behind a ticket: what both sides of it say.

weight_sync   GOOD                              the ticket is good
learner       (offset, size, bytes) ..., END    stretches, each beginning with a tensor
weight_sync   TAKEN                             whole tensors, each checked; or any other byte, and why not
"""

HEAD_BYTES = 16
GOOD, TAKEN, REFUSED = b"\2", b"\1", b"\0"
END = bytes(HEAD_BYTES)


def head(offset: int, size: int) -> bytes:
    """What goes before a stretch of so many bytes, at least one."""
    return offset.to_bytes(8) + size.to_bytes(8)


def stretch(said: bytes | bytearray | memoryview) -> tuple[int, int] | None:
    """Where the next bytes begin, and how many they are; None at the end."""
    offset, size = int.from_bytes(said[:8]), int.from_bytes(said[8:])
    return (offset, size) if size else None
