"""The trajectory log against bare nats-py: microseconds to publish and to consume one trajectory.

Both write to the same nats-server with `sync_interval: always`, the same number of messages in flight, the same file
storage. Ours adds what makes training exactly-once: one message per subject, a writer's mark, retries that recognise
themselves, an envelope for payloads too large for a message, and a reader that refuses gaps. The ratio is its price.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence

from nats.js import api

from penstock.bus import (
    Bus,
    EmbeddedServer,
    RunLimits,
    RunNames,
    connect,
    ensure_run,
    load_payload,
    publish_once,
    read,
    store_payload,
)
from tests.bench.report import Report, median_ratio

KIB = 1 << 10
IN_FLIGHT = 64
GIB = 1 << 30
# The server reserves a run's limits; many small runs live on one server here.
LIMITS = RunLimits(log_bytes=GIB, tasks_bytes=GIB, ledger_bytes=GIB, blob_bytes=GIB)


async def all_of(one: Callable[[int], Awaitable[None]], count: int) -> None:
    """one(0) … one(count - 1), IN_FLIGHT at a time."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await one(number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(work())


async def ours(bus: Bus, names: RunNames, payloads: Sequence[bytes]) -> tuple[float, float]:
    """Seconds to publish and to consume all payloads through penstock.bus."""
    await ensure_run(bus, names, LIMITS)

    async def publish(number: int) -> None:
        envelope = await store_payload(bus, names, payloads[number])
        await publish_once(bus, names.log_subject(number, 0), envelope)

    began = time.perf_counter()
    await all_of(publish, len(payloads))
    published = time.perf_counter()
    async with contextlib.aclosing(read(bus, names.log, live=False)) as entries:
        got = [len(await load_payload(bus, names, entry.payload)) async for entry in entries]
    assert len(got) == len(payloads)
    return published - began, time.perf_counter() - published


async def bare(bus: Bus, stream: str, payloads: Sequence[bytes]) -> tuple[float, float]:
    """The same with nothing but nats-py: Nats-Msg-Id for deduplication, a push consumer without acks."""
    js = bus.js
    await js.add_stream(api.StreamConfig(name=stream, subjects=[f"{stream}.>"], storage=api.StorageType.FILE))

    async def publish(number: int) -> None:
        await js.publish(f"{stream}.{number}", payloads[number], headers={"Nats-Msg-Id": str(number)})

    began = time.perf_counter()
    await all_of(publish, len(payloads))
    published = time.perf_counter()
    # The fastest of nats-py's three ways to read (its pull and ordered consumers were several times slower here).
    config = api.ConsumerConfig(ack_policy=api.AckPolicy.NONE)
    subscription = await js.subscribe(
        f"{stream}.>", stream=stream, config=config, manual_ack=True, pending_msgs_limit=-1, pending_bytes_limit=-1
    )
    got = 0
    async for _ in subscription.messages:
        got += 1
        if got == len(payloads):
            break
    ended = time.perf_counter()
    await subscription.unsubscribe()
    return published - began, ended - published


async def main(args: argparse.Namespace) -> None:
    report = Report("log", vars(args))
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        async with (
            EmbeddedServer(root / "nats", root / "nats.log") as server,
            connect(server.url, name="bench", monitor_url=server.monitor_url) as bus,
        ):
            for size in args.kib:
                count = max(IN_FLIGHT, min(args.messages, args.megabytes * KIB // size))
                payloads = [os.urandom(size * KIB) for _ in range(count)]
                a, b = [], []
                for turn in range(args.rounds):
                    name = f"{size}k-{turn}"
                    a.append(await ours(bus, RunNames(f"ours-{name}"), payloads))
                    b.append(await bare(bus, f"bare-{name}", payloads))
                for i, what in enumerate(("publish", "consume")):
                    mine, theirs = [r[i] for r in a], [r[i] for r in b]
                    report.add(
                        size=f"{size} KiB",
                        what=what,
                        messages=count,
                        ours_us=statistics.median(mine) / count * 1e6,
                        bare_us=statistics.median(theirs) / count * 1e6,
                        ratio=median_ratio(mine, theirs),
                    )
    report.note("us per trajectory, medians; ratio: time of ours / bare nats-py, median over rounds (1 = no overhead)")
    report.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kib", type=int, nargs="+", default=[4, 64, 512], help="payload sizes")
    parser.add_argument("--messages", type=int, default=2000, help="messages of a round at most")
    parser.add_argument("--megabytes", type=int, default=64, help="bytes of a round at most")
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(main(parser.parse_args()))
