import asyncio
from contextlib import aclosing
from datetime import UTC, datetime

import pytest

from penstock.bus import (
    Bus,
    EmbeddedServer,
    NotFound,
    RunNames,
    SequenceGap,
    append,
    last_entry,
    publish_once,
    read,
    stream_state,
    trim,
)


async def test_entries_come_in_order_without_gap_or_repeat(server: EmbeddedServer, bus: Bus, names: RunNames) -> None:
    """A live reader over two kill -9 of the server and the loss of its consumer."""
    total = 300

    async def write() -> None:
        for index in range(total):
            await publish_once(bus, names.log_subject("g", index), b"%d" % index, within=30)
            if index in (80, 200):
                await server.kill()
                await server.start()
            if index == 140:
                for consumer in await bus.js.consumers_info(names.log):
                    await bus.js.delete_consumer(names.log, consumer.name)

    writer = asyncio.create_task(write())
    seen = []
    async with asyncio.timeout(40), aclosing(read(bus, names.log)) as entries:
        async for entry in entries:
            seen.append((entry.sequence, int(entry.payload)))
            if len(seen) == total:
                break
    await writer
    assert seen == [(index + 1, index) for index in range(total)]


async def test_a_cursor_resumes_after_the_last_entry(bus: Bus, names: RunNames) -> None:
    for index in range(10):
        await publish_once(bus, names.log_subject("g", index), b"x")
    assert [entry.sequence async for entry in read(bus, names.log, after=7, live=False)] == [8, 9, 10]
    assert [entry.sequence async for entry in read(bus, names.log, after=10, live=False)] == []


async def test_a_filter_selects_subjects(bus: Bus, names: RunNames) -> None:
    for step in range(3):
        await append(bus, names.ledger_batch_subject(step), b"b", expected_last_sequence=0)
        await append(bus, names.ledger_step_subject(step), b"s", expected_last_sequence=0)
    only = f"penstock.{names.run}.ledger.batch.*"
    assert [entry.payload async for entry in read(bus, names.ledger, subjects=only, live=False)] == [b"b"] * 3
    nothing = f"penstock.{names.run}.ledger.eval.*"
    assert [entry async for entry in read(bus, names.ledger, subjects=nothing, live=False)] == []


async def test_what_was_trimmed_is_no_gap_and_what_was_lost_is(bus: Bus, names: RunNames) -> None:
    for index in range(6):
        await publish_once(bus, names.log_subject("g", index), b"x")
    await trim(bus, names.log, before=3)
    assert [entry.sequence async for entry in read(bus, names.log, live=False)] == [3, 4, 5, 6]
    await bus.js.delete_msg(names.log, 5)
    with pytest.raises(SequenceGap) as caught:
        assert [entry async for entry in read(bus, names.log, live=False)]
    assert caught.value.missing == (5, 5)


async def test_a_stream_that_ends_before_the_cursor_is_a_gap(bus: Bus, names: RunNames) -> None:
    await publish_once(bus, names.log_subject("g", 0), b"x")
    with pytest.raises(SequenceGap):
        assert [entry async for entry in read(bus, names.log, after=5)]


async def test_large_and_many_entries(bus: Bus, names: RunNames) -> None:
    payload = bytes(3 << 20)
    for index in range(9):
        await publish_once(bus, names.log_subject("g", index), payload)
    assert [len(entry.payload) async for entry in read(bus, names.log, live=False)] == [len(payload)] * 9


async def test_last_entry_and_state(bus: Bus, names: RunNames) -> None:
    assert await last_entry(bus, names.log, names.log_subject("g", 0)) is None
    await publish_once(bus, names.log_subject("g", 0), b"", headers={"a": "b"})
    entry = await last_entry(bus, names.log, names.log_subject("g", 0))
    assert entry is not None and entry.payload == b"" and entry.headers["a"] == "b"
    assert abs((datetime.now(UTC) - entry.at).total_seconds()) < 60
    assert (await stream_state(bus, names.log)).last_sequence == 1
    assert [found.payload async for found in read(bus, names.log, live=False)] == [b""]


async def test_an_unknown_stream_is_not_found(bus: Bus) -> None:
    with pytest.raises(NotFound):
        assert [entry async for entry in read(bus, "NOTHING", live=False)]
