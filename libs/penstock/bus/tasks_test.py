import asyncio
import random
from contextlib import aclosing
from typing import Any

from penstock.bus import Bus, BusTimeout, EmbeddedServer, RunNames, Task, TaskConsumer, connect, publish_once


def _consumer(bus: Bus, names: RunNames, **settings: Any) -> TaskConsumer:
    defaults = {"ack_wait": 1.0, "max_deliver": 3, "max_in_flight": 4, "retry_delay": 0.05}
    return TaskConsumer(bus, names, "train", **(defaults | settings))


async def _first(consumer: TaskConsumer) -> Task:
    async with asyncio.timeout(15), aclosing(consumer.__aiter__()) as tasks:
        async for task in tasks:
            return task
    raise AssertionError


async def test_heartbeats_hold_a_task_beyond_ack_wait(bus: Bus, names: RunNames) -> None:
    await publish_once(bus, names.task_subject("train", 1), b"work", headers={"traceparent": "x"})
    consumer = _consumer(bus, names)
    task = await _first(consumer)
    async with task:
        other = asyncio.create_task(_first(_consumer(bus, names)))
        done, _ = await asyncio.wait({other}, timeout=2.5)
        assert not done
        assert (await consumer.backlog()).ack_pending == 1
        await task.done()
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)
    assert task.headers["traceparent"] == "x" and task.deliveries == 1
    backlog = await consumer.backlog()
    assert (backlog.pending, backlog.ack_pending, backlog.oldest_age) == (0, 0, None)


async def test_a_dead_workers_task_is_delivered_again(server: EmbeddedServer, bus: Bus, names: RunNames) -> None:
    await publish_once(bus, names.task_subject("train", 1), b"work")
    async with connect(server.url, name="doomed") as doomed:
        task = await _first(_consumer(doomed, names))  # taken and never heard of again
        assert task.deliveries == 1
    again = await _first(_consumer(bus, names))
    assert (again.payload, again.deliveries, again.last_delivery) == (b"work", 2, False)


async def test_redelivery_is_bounded_and_then_marked_exhausted(bus: Bus, names: RunNames) -> None:
    await publish_once(bus, names.task_subject("train", 1), b"poison")
    consumer, seen = _consumer(bus, names), []
    async with asyncio.timeout(15), aclosing(consumer.__aiter__()) as tasks:
        async for task in tasks:
            seen.append((task.deliveries, task.last_delivery, task.exhausted))
            try:
                async with task:
                    if task.exhausted:
                        await task.done()
                        break
                    raise RuntimeError("it always fails")
            except RuntimeError:
                continue
    assert seen == [(1, False, False), (2, False, False), (3, True, False), (4, True, True)]
    assert (await consumer.backlog()).ack_pending == 0


async def test_cancelling_gives_the_task_back_at_once(bus: Bus, names: RunNames) -> None:
    await publish_once(bus, names.task_subject("train", 1), b"work")
    consumer = _consumer(bus, names, ack_wait=30.0)
    task = await _first(consumer)

    async def hold() -> None:
        async with task:
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    await asyncio.sleep(0)
    holder.cancel()
    await asyncio.gather(holder, return_exceptions=True)
    assert (await _first(consumer)).deliveries == 2


async def test_kinds_are_separate_and_places_are_bounded(bus: Bus, names: RunNames) -> None:
    await publish_once(bus, names.task_subject("eval", 1), b"eval")
    for group in range(3):
        await publish_once(bus, names.task_subject("train", group), b"train")
    consumer = _consumer(bus, names, max_in_flight=2)
    await consumer.ensure()
    held: list[Task] = []

    async def take() -> None:
        async for task in consumer:
            held.append(task)
            await task.__aenter__()

    taker = asyncio.create_task(take())
    async with asyncio.timeout(5):
        while (await consumer.backlog()).ack_pending < 2:
            pass
    backlog = await consumer.backlog()
    assert (backlog.pending, backlog.ack_pending) == (1, 2)
    assert backlog.oldest_age is not None and 0 <= backlog.oldest_age < 30
    await held[0].done()
    await held[0].__aexit__(None, None, None)
    async with asyncio.timeout(5):
        while len(held) < 3:
            await asyncio.sleep(0)
    taker.cancel()
    await asyncio.gather(taker, return_exceptions=True)
    for task in held[1:]:
        await task.__aexit__(None, None, None)
    assert all(task.payload == b"train" for task in held)


async def test_every_task_is_done_or_delivered_again(server: EmbeddedServer, bus: Bus, names: RunNames) -> None:
    """Forty tasks, three unreliable workers, the server killed twice: each is done in the end."""
    total, done = 40, set[str]()
    finished, chance = asyncio.Event(), random.Random(7)
    for group in range(total):
        await publish_once(bus, names.task_subject("train", group), b"work")

    async def worker() -> None:
        async for task in _consumer(bus, names, max_in_flight=1, max_deliver=99):
            try:
                async with task:
                    if chance.random() < 0.25:
                        raise RuntimeError("unlucky")
                    await task.done()
                    done.add(task.subject)
            except (RuntimeError, BusTimeout):  # the second is a server that takes its time to come back
                continue
            if len(done) == total:
                finished.set()

    workers = [asyncio.create_task(worker()) for _ in range(3)]
    for threshold in (10, 25):
        async with asyncio.timeout(20):
            while len(done) < threshold:
                await asyncio.sleep(0.01)
        await server.kill()
        await server.start()
    await asyncio.wait_for(finished.wait(), 30)
    consumer = _consumer(bus, names)
    async with asyncio.timeout(20):  # acknowledgements forgotten by a killed server come back and are done again
        while ((backlog := await consumer.backlog()).pending, backlog.ack_pending) != (0, 0):
            pass
    for each in workers:
        each.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert len(done) == total
