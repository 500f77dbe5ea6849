import pytest

from penstock.bus import Bucket, Bus, KeyConflict, RunNames


async def test_get_put_create_update(bus: Bus, names: RunNames) -> None:
    bucket = Bucket(bus, names)
    assert await bucket.get("recipe") is None
    revision = await bucket.create("recipe", b"one")
    with pytest.raises(KeyConflict):
        await bucket.create("recipe", b"two")
    revision = await bucket.update("recipe", b"two", revision)
    with pytest.raises(KeyConflict):
        await bucket.update("recipe", b"three", revision - 1)
    assert await bucket.put("recipe", b"four") == revision + 1
    found = await bucket.get("recipe")
    assert found is not None and found.value == b"four" and found.revision == revision + 1


async def test_a_key_that_somebody_removed_may_be_created_again(bus: Bus, names: RunNames) -> None:
    bucket = Bucket(bus, names)
    await bucket.create("recipe", b"one")
    assert await (await bus.js.key_value(names.bucket)).delete("recipe")
    assert await bucket.get("recipe") is None
    await bucket.create("recipe", b"again")
    found = await bucket.get("recipe")
    assert found is not None and found.value == b"again"


async def test_the_nats_client_reads_the_same_bucket(bus: Bus, names: RunNames) -> None:
    await Bucket(bus, names).put("status", b"running")
    theirs = await bus.js.key_value(names.bucket)
    assert (await theirs.get("status")).value == b"running"
