import asyncio
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.bus import (
    Bus,
    EmbeddedServer,
    Fenced,
    PayloadTooLarge,
    RunLimits,
    RunNames,
    StreamFull,
    append,
    connect,
    ensure_run,
    last_entry,
    publish_once,
    read,
    stream_state,
    trim,
)


async def test_a_subject_published_once_holds_exactly_one_message_whatever_is_killed(
    server: EmbeddedServer, bus: Bus, names: RunNames
) -> None:
    """Three writers race for the same 150 subjects while the server is killed and started four times."""
    samples = [names.log_subject(group, 0) for group in range(150)]
    progress = asyncio.Event()
    firsts: dict[str, list[int]] = {subject: [] for subject in samples}

    async def writer(number: int) -> None:
        async with connect(server.url, name=f"writer-{number}", attempt_seconds=0.5) as mine:
            for subject in random.Random(number).sample(samples, len(samples)):
                published = await publish_once(mine, subject, b"from %d" % number, within=30)
                if published.first:
                    firsts[subject].append(number)
                progress.set()

    async def chaos() -> None:
        for _ in range(4):
            for _ in range(20):
                progress.clear()
                await progress.wait()
            await server.kill()
            await server.start()

    killer = asyncio.create_task(chaos())
    async with asyncio.TaskGroup() as writers:
        for number in range(3):
            writers.create_task(writer(number))
    killer.cancel()
    await asyncio.gather(killer, return_exceptions=True)
    if server.process is None or server.process.returncode is not None:
        await server.start()
    stored = {entry.subject: entry.payload async for entry in read(bus, names.log, live=False)}
    assert sorted(stored) == sorted(samples)
    assert (await stream_state(bus, names.log)).messages == len(samples)
    assert all(stored[subject] == b"from %d" % winners[0] for subject, winners in firsts.items() if winners)
    assert all(len(winners) == 1 for winners in firsts.values())


async def test_the_second_writer_learns_where_the_first_one_is(bus: Bus, names: RunNames) -> None:
    subject = names.log_subject("g", 3)
    first = await publish_once(bus, subject, b"one", headers={"traceparent": "00-1"})
    second = await publish_once(bus, subject, b"two")
    assert first.first and not second.first and second.sequence == first.sequence
    entry = await last_entry(bus, names.log, subject)
    assert entry is not None and entry.payload == b"one" and entry.headers["traceparent"] == "00-1"


async def test_an_append_is_fenced_by_another_writer(bus: Bus, names: RunNames) -> None:
    subject = names.ledger_group_subject("g")
    first = await append(bus, subject, b"a", expected_last_sequence=0)
    await append(bus, names.ledger_group_subject("other"), b"x", expected_last_sequence=0)
    second = await append(bus, subject, b"b", expected_last_sequence=first)
    with pytest.raises(Fenced) as caught:
        await append(bus, subject, b"c", expected_last_sequence=first)
    assert caught.value.current == second
    assert await append(bus, subject, b"d", expected_last_sequence=None) > second


async def test_an_append_that_was_stored_is_never_fenced_by_itself(
    bus: Bus, names: RunNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first acknowledgement is lost; without the message id the retry meets its own message."""
    real: Any = bus.js.publish
    for forget_message_id in (False, True):
        subject = names.ledger_batch_subject(int(forget_message_id))
        lost = False

        async def unlucky(*args: Any, headers: dict[str, str], **rest: Any) -> object:
            nonlocal lost
            if forget_message_id:  # noqa: B023
                headers = {key: value for key, value in headers.items() if key != "Nats-Msg-Id"}
            ack = await real(*args, headers=headers, **rest)
            if not lost:
                lost = True
                raise TimeoutError
            return ack

        monkeypatch.setattr(bus.js, "publish", unlucky)
        sequence = await append(bus, subject, b"batch", expected_last_sequence=0)
        monkeypatch.setattr(bus.js, "publish", real)
        assert lost
        entry = await last_entry(bus, names.ledger, subject)
        assert entry is not None and entry.sequence == sequence
    assert (await stream_state(bus, names.ledger)).messages == 2


async def test_publish_once_whose_ack_was_lost_still_knows_it_was_first(
    bus: Bus, names: RunNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = bus.js.publish, 0

    async def unlucky(*args: Any, **rest: Any) -> object:
        nonlocal calls
        calls += 1
        ack = await real(*args, **rest)
        if calls == 1:
            raise TimeoutError
        return ack

    monkeypatch.setattr(bus.js, "publish", unlucky)
    published = await publish_once(bus, names.log_subject(1, 0), b"x")
    assert published.first and calls == 2


async def test_a_full_stream_is_told_from_a_taken_subject(bus: Bus, small: RunLimits) -> None:
    names = RunNames("full")
    limits = RunLimits(log_bytes=1 << 20, log_messages=3, tasks_bytes=1 << 20, ledger_bytes=1 << 20, blob_bytes=1 << 20)
    await ensure_run(bus, names, limits)
    for index in range(3):
        await publish_once(bus, names.log_subject(1, index), b"x")
    assert not (await publish_once(bus, names.log_subject(1, 0), b"y", on_full="raise")).first
    with pytest.raises(StreamFull):
        await publish_once(bus, names.log_subject(1, 3), b"x", on_full="raise")
    with pytest.raises(StreamFull):
        await publish_once(bus, names.log_subject(1, 3), b"x", within=0.4)
    waiting = asyncio.create_task(publish_once(bus, names.log_subject(1, 3), b"x", within=10))
    await trim(bus, names.log, before=3)
    assert (await waiting).first


async def test_a_payload_above_the_limit_is_named(bus: Bus, names: RunNames) -> None:
    with pytest.raises(PayloadTooLarge, match="8388608"):
        await publish_once(bus, names.log_subject(1, 0), bytes(9 << 20))
    assert bus.connected


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.binary(max_size=8)), max_size=12))
def test_first_writer_wins_and_readers_agree(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int, bytes]]
) -> None:
    """Any sequence of writes leaves what `setdefault` would leave in a dictionary, in order of first writing."""

    async def run() -> None:
        directory = tmp_path_factory.mktemp("model")
        async with (
            EmbeddedServer(directory / "s", directory / "log") as server,
            connect(server.url, name="t", monitor_url=server.monitor_url) as bus,
        ):
            names = RunNames("model")
            small = 1 << 20
            limits = RunLimits(log_bytes=small, tasks_bytes=small, ledger_bytes=small, blob_bytes=small)
            await ensure_run(bus, names, limits)
            model: dict[str, bytes] = {}
            for group, index, payload in writes:
                subject = names.log_subject(group, index)
                published = await publish_once(bus, subject, payload)
                assert published.first == (subject not in model)
                model.setdefault(subject, payload)
            entries = [entry async for entry in read(bus, names.log, live=False)]
            assert [(entry.subject, entry.payload) for entry in entries] == list(model.items())
            assert [entry.sequence for entry in entries] == list(range(1, len(model) + 1))

    asyncio.run(run())
