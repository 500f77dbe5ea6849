import os

import pytest

from penstock.bus import Bus, DigestMismatch, RunNames, load_payload, store_payload, stream_state


async def test_a_small_payload_stays_inside(bus: Bus, names: RunNames) -> None:
    envelope = await store_payload(bus, names, b"small")
    assert await load_payload(bus, names, envelope) == b"small"
    assert (await stream_state(bus, names.blobs)).messages == 0


async def test_a_large_payload_travels_by_reference_and_is_stored_once(bus: Bus, names: RunNames) -> None:
    payload = os.urandom(5_000_001)
    envelope = await store_payload(bus, names, payload, limit=1000)
    assert len(envelope) < 200
    assert await load_payload(bus, names, envelope) == payload
    assert await store_payload(bus, names, payload, limit=1000) == envelope
    assert (await stream_state(bus, names.blobs)).messages == 5


async def test_a_payload_that_was_changed_is_refused(bus: Bus, names: RunNames) -> None:
    envelope = await store_payload(bus, names, b"a" * 2000, limit=100)
    other = await store_payload(bus, names, b"b" * 2000, limit=100)
    digest = envelope.split(b'"')[3].decode()
    await bus.js.purge_stream(names.blobs, subject=names.blob_subject(digest, 0))
    with pytest.raises(DigestMismatch, match="piece 0"):
        await load_payload(bus, names, envelope)
    await bus.js.publish(names.blob_subject(digest, 0), b"c" * 2000)
    with pytest.raises(DigestMismatch, match="not the 2000 stored"):
        await load_payload(bus, names, envelope)
    assert await load_payload(bus, names, other) == b"b" * 2000


@pytest.mark.parametrize(
    "envelope", [b"", b"\x02", b"\x01{", b'\x01{"digest": "../x", "size": 1, "pieces": 1}', b"\x01[]"]
)
async def test_a_malformed_envelope_is_refused(bus: Bus, names: RunNames, envelope: bytes) -> None:
    with pytest.raises(DigestMismatch):
        await load_payload(bus, names, envelope)
