import asyncio
import dataclasses
import signal
from pathlib import Path

import pytest

from penstock.bus import (
    Bucket,
    Bus,
    BusTimeout,
    EmbeddedServer,
    RunLimits,
    RunNames,
    StreamFull,
    StreamMismatch,
    UnsafeServer,
    connect,
    ensure_run,
    publish_once,
    server_command,
    stream_state,
    trim,
)
from penstock.bus.embedded import free_ports, write_config
from penstock.bus.streams import stream_configs
from penstock.telemetry.waits import snapshot
from penstock.testing.freezing import freeze


async def test_ensuring_twice_changes_nothing(bus: Bus, names: RunNames, small: RunLimits) -> None:
    await publish_once(bus, names.log_subject(1, 0), b"x")
    await ensure_run(bus, names, small)
    assert (await stream_state(bus, names.log)).messages == 1


async def test_another_configuration_is_named(bus: Bus, names: RunNames, small: RunLimits) -> None:
    with pytest.raises(StreamMismatch, match="max_bytes") as caught:
        await ensure_run(bus, names, RunLimits(log_bytes=1 << 20, tasks_bytes=small.tasks_bytes))
    assert caught.value.differences == {"max_bytes": (small.log_bytes, 1 << 20)}


async def test_a_full_stream_takes_more_once_it_has_more_room(bus: Bus, names: RunNames, small: RunLimits) -> None:
    assert (await stream_state(bus, names.log)).fill == 0
    number = 0
    with pytest.raises(StreamFull):
        while True:
            await publish_once(bus, names.log_subject(number, 0), bytes(1 << 20), on_full="raise")
            number += 1
    assert (await stream_state(bus, names.log)).fill > 0.9
    await ensure_run(bus, names, dataclasses.replace(small, log_bytes=2 * small.log_bytes))
    await publish_once(bus, names.log_subject(number, 0), bytes(1 << 20), on_full="raise")
    state = await stream_state(bus, names.log)
    assert state.max_bytes == 2 * small.log_bytes and state.fill < 0.6 and state.messages == number + 1


async def test_a_run_of_an_earlier_release_takes_what_its_streams_lack(
    bus: Bus, names: RunNames, small: RunLimits
) -> None:
    """Members write keys that go by themselves: a bucket that was made before there were members must learn that."""
    old = RunNames("old")
    bucket = stream_configs(old, small)[-1]
    await bus.js.add_stream(bucket.evolve(allow_msg_ttl=None, allow_rollup_hdrs=False, allow_direct=False))
    await Bucket(bus, old).put("paused", b"1")
    await ensure_run(bus, old, small)
    found = (await bus.js.stream_info(old.bucket_stream)).config
    assert found.allow_msg_ttl and found.allow_rollup_hdrs and found.allow_direct
    assert await Bucket(bus, old).renew("member.x.y", b"z", 0, ttl=1, within=5.0)
    kept = await Bucket(bus, old).get("paused")
    assert kept is not None and kept.value == b"1"


async def test_a_server_that_may_lose_acknowledged_messages_is_refused(tmp_path: Path, small: RunLimits) -> None:
    port, http_port = free_ports(2)
    config = write_config(tmp_path, tmp_path / "js", port, http_port)
    config.write_text(config.read_text().replace("  sync_interval: always\n", ""))
    server = await asyncio.create_subprocess_exec(*server_command(config), stderr=asyncio.subprocess.DEVNULL)
    try:
        async with connect(f"nats://127.0.0.1:{port}", name="t", monitor_url=f"http://127.0.0.1:{http_port}") as bus:
            with pytest.raises(UnsafeServer, match="sync_interval"):
                await ensure_run(bus, RunNames("r"), small)
    finally:
        server.terminate()
        await server.wait()


async def test_durability_that_cannot_be_verified_is_refused(server: EmbeddedServer, small: RunLimits) -> None:
    async with connect(server.url, name="t") as bus:
        with pytest.raises(UnsafeServer, match="monitor_url"):
            await ensure_run(bus, RunNames("r"), small)


async def test_a_hung_server_is_a_named_error_within_bounds(server: EmbeddedServer, bus: Bus, names: RunNames) -> None:
    assert server.process is not None
    freeze(server.process.pid)
    try:
        loop = asyncio.get_running_loop()
        started = loop.time()
        call = asyncio.create_task(publish_once(bus, names.log_subject(1, 0), b"x", within=1.2))
        async with asyncio.timeout(1):
            while not any("penstock." in wait.what and wait.on == "nats" for wait in snapshot()):
                await asyncio.sleep(0)
        with pytest.raises(BusTimeout, match=r"publish penstock\.r.*within 1\.\d* s"):
            await call
        assert loop.time() - started < 2.5
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert (await publish_once(bus, names.log_subject(1, 0), b"x", within=10)).sequence == 1


async def test_trimming_removes_what_is_before(bus: Bus, names: RunNames) -> None:
    for index in range(5):
        await publish_once(bus, names.log_subject(1, index), b"x")
    await trim(bus, names.log, before=4)
    state = await stream_state(bus, names.log)
    assert (state.first_sequence, state.last_sequence, state.messages) == (4, 5, 2)
