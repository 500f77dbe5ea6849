import asyncio

import pytest

from penstock.bus import Bucket, Bus, BusTimeout, EmbeddedServer, KeyConflict, Lease, LeaseLost, RunNames, connect


async def test_get_put_create_update_delete(bus: Bus, names: RunNames) -> None:
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
    await bucket.delete("recipe")
    assert await bucket.get("recipe") is None
    await bucket.create("recipe", b"again")


async def test_the_nats_client_reads_the_same_bucket(bus: Bus, names: RunNames) -> None:
    await Bucket(bus, names).put("status", b"running")
    theirs = await bus.js.key_value(names.bucket)
    assert (await theirs.get("status")).value == b"running"


async def test_a_lease_has_one_holder(server: EmbeddedServer, bus: Bus, names: RunNames) -> None:
    async with Lease(bus, names, "coordinator", holder="a", ttl=1).hold() as lease:
        with pytest.raises(BusTimeout):  # renewed: it outlives its term
            async with Lease(bus, names, "coordinator", holder="b", ttl=1).hold(within=2.5):
                pass
        assert lease.revision > 1
    async with Lease(bus, names, "coordinator", holder="b", ttl=1).hold(within=0.2):
        pass  # released: free at once


async def test_the_lease_of_a_dead_holder_runs_out(server: EmbeddedServer, bus: Bus, names: RunNames) -> None:
    await Bucket(bus, names).create("lease.x", b"dead", ttl=1)
    async with Lease(bus, names, "x", holder="heir", ttl=1).hold(within=5):
        pass


async def test_losing_a_lease_ends_the_block(bus: Bus, names: RunNames) -> None:
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(10), Lease(bus, names, "x", holder="a", ttl=1).hold():
            await Bucket(bus, names).put("lease.x", b"usurper")
            await asyncio.Event().wait()


async def test_a_lease_is_lost_within_its_term_when_the_server_hangs(server: EmbeddedServer, names: RunNames) -> None:
    async with connect(server.url, name="holder", attempt_seconds=0.3) as bus:
        loop = asyncio.get_running_loop()
        started = 0.0
        try:
            with pytest.raises(LeaseLost):
                async with asyncio.timeout(10), Lease(bus, names, "x", holder="a", ttl=2).hold():
                    await server.kill()
                    started = loop.time()
                    await asyncio.Event().wait()
            assert loop.time() - started <= 2.2
        finally:
            await server.start()
