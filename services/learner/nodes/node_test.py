"""Nodes meet, run, lose one of them and meet again: over a real NATS, with launchers that only stand in for ranks.

`together_test.py` does it with real ranks."""

import asyncio
import json
import os
import pathlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from penstock.bus import Bucket, Bus, EmbeddedServer, RunNames
from penstock.process import Process, flags, joined
from penstock.rpc import Security, Server
from penstock.system import exits
from penstock.telemetry import waits
from services.learner.nodes import shared
from services.learner.nodes.board import Board, Overtaken
from services.learner.nodes.node import KIND, NodeLife
from services.learner.nodes.standing import Group, Node, State


class Nodes:
    """Of one learner. folder: of all; each may have its own folder of checkpoints."""

    def __init__(self, nats: EmbeddedServer, bus: Bus, names: RunNames, folder: pathlib.Path) -> None:
        self.nats, self.folder, self.names, self.bucket = nats, folder, names, Bucket(bus, names)

    @asynccontextmanager
    async def node(
        self, name: str, count: int = 2, rank: int | None = None, checkpoints: str = "all"
    ) -> AsyncIterator[tuple[Process, "asyncio.Task[None]"]]:
        """One that lives for the block, unless it ends before."""
        words = ["--nats", self.nats.url, "--run", self.names.run, "--name", name]
        args = flags("learner", "tests").parse_args(words)
        args.part = KIND
        command = [sys.executable, "-m", "services.learner.nodes.ranks_testing", str(self.folder)]
        async with (
            Server(args.name, args.listen, grace_seconds=0.1) as server,
            joined(args, args.run, Security()) as part,
        ):
            process = Process(args, server, Security(), part)
            life = NodeLife(process, command, count, self.folder / checkpoints, 60.0, "127.0.0.1", rank)
            living = asyncio.create_task(process.serving(life.run(), ready=life.ready, gives_back=True))
            try:
                yield process, living
            finally:
                living.cancel()
                await asyncio.gather(living, return_exceptions=True)

    async def began(self, lives: int) -> list[tuple[int, int, str]]:
        """Waits for so many lives of launchers; all of them: node, process, place."""
        path = self.folder / "began"
        async with asyncio.timeout(60):
            while not path.is_file() or len(lines := _lives(path)) < lives:
                await asyncio.sleep(0.05)  # a file announces nothing
        return [(int(rank), int(pid), place) for rank, pid, place in map(str.split, lines)]

    def end(self, rank: int, code: int, text: str = "", weight: int = 3) -> None:
        """Has the launcher of a node end."""
        told = self.folder / f"end-{rank}"
        told.with_suffix(".partial").write_text(json.dumps({"code": code, "text": text, "weight": weight}))
        told.with_suffix(".partial").replace(told)

    async def group(self) -> Group:
        held = await self.bucket.get(self.names.learner_group_key)
        return Group() if held is None else Group.of(held.value)

    async def until(self, state: State, incarnation: int) -> Group:
        async with asyncio.timeout(60):
            while (now := await self.group()).state != state or now.incarnation != incarnation:
                await asyncio.sleep(0.05)
        return now


def _lives(path: pathlib.Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


@pytest.fixture
def nodes(nats: EmbeddedServer, bus: Bus, names: RunNames, tmp_path: pathlib.Path) -> Nodes:
    return Nodes(nats, bus, names, tmp_path)


async def test_a_group_ends_whole_names_the_cause_and_meets_again(nodes: Nodes) -> None:
    async with nodes.node("a") as (first, _), nodes.node("b") as (second, _):
        lives = await nodes.began(2)
        assert {rank for rank, _, _ in lives} == {0, 1} and len({place for _, _, place in lives}) == 1
        nodes.end(1, exits.FAILED, "rank 1 was killed", 2)
        again = await nodes.began(4)
        assert {rank for rank, _, _ in again[2:]} == {0, 1} and {p for _, _, p in again[2:]} != {lives[0][2]}
        group = await nodes.until(State.RUNNING, 2)
        assert group.reason == "", "what the new incarnation is, is not the old one's"
        for pid in (pid for _, pid, _ in lives):
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        nodes.end(0, exits.DONE)
        nodes.end(1, exits.DONE)
        await nodes.until(State.DONE, 2)
        async with asyncio.timeout(30):
            await asyncio.gather(first.server.until_stopped(), second.server.until_stopped())
        assert (first.code, second.code) == (exits.DONE, exits.DONE)


async def test_what_would_come_again_ends_every_node_with_its_words(nodes: Nodes) -> None:
    async with nodes.node("a") as (first, _), nodes.node("b") as (second, _):
        await nodes.began(2)
        nodes.end(1, exits.BAD_INPUT, "rank 1: the recipe is wrong", 1)
        async with asyncio.timeout(30):
            await asyncio.gather(first.server.until_stopped(), second.server.until_stopped())
        assert (first.code, second.code) == (exits.BAD_INPUT, exits.BAD_INPUT)
        group = await nodes.group()
        assert group.state == State.ENDED and group.reason == "rank 1: the recipe is wrong"


async def test_a_node_that_is_lost_is_named_and_its_place_taken_by_another(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes.node("a"):
        async with nodes.node("b"):
            lives = await nodes.began(2)
            (pid,) = (pid for rank, pid, _ in lives if rank == 1)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        group = await nodes.until(State.MEETING, 2)
        async with asyncio.timeout(30):
            while not (said := [wait for wait in waits.REGISTRY.snapshot() if "node 1 (it was on" in wait.what]):
                await asyncio.sleep(0.05)
        assert said[0].on == KIND
        async with nodes.node("b", rank=1):
            assert {rank for rank, _, _ in (await nodes.began(4))[2:]} == {0, 1}
            assert (await nodes.until(State.RUNNING, 2)).mark == group.mark


async def test_a_launcher_that_is_killed_is_a_group_that_ends(nodes: Nodes) -> None:
    async with nodes.node("a"), nodes.node("b"):
        lives = await nodes.began(2)
        for rank in (0, 1):
            (pid,) = (pid for number, pid, _ in lives[-2:] if number == rank)
            os.kill(pid, signal.SIGKILL)
            lives = await nodes.began(len(lives) + 2)
        await nodes.until(State.RUNNING, 3)


async def test_a_nats_that_is_away_is_waited_for(nodes: Nodes) -> None:
    async with nodes.node("a"), nodes.node("b"):
        await nodes.began(2)
        await nodes.until(State.RUNNING, 1)
        await nodes.nats.kill()
        nodes.end(1, exits.FAILED, "rank 1 was killed", 2)
        await asyncio.sleep(1.0)  # time in which nothing can be said
        await nodes.nats.start()
        await nodes.began(4)
        await nodes.until(State.RUNNING, 2)


async def test_nodes_that_do_not_share_a_folder_are_refused_in_one_sentence(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.find_mark, "__defaults__", (0.5,))
    async with nodes.node("a") as (first, _), nodes.node("b", checkpoints="other") as (second, _):
        async with asyncio.timeout(30):
            await asyncio.gather(first.server.until_stopped(), second.server.until_stopped())
        assert (first.code, second.code) == (exits.BAD_INPUT, exits.BAD_INPUT)
        assert "its nodes must share that folder" in (await nodes.group()).reason
    assert not (nodes.folder / "began").exists(), "nothing half started"


async def test_a_run_that_is_over_is_met_for_no_more_by_anybody(nodes: Nodes) -> None:
    """Three are to meet, and two are there."""
    async with nodes.node("a", 3) as (first, _), nodes.node("b", 3) as (second, _):
        async with asyncio.timeout(30):
            while (held := await nodes.bucket.get(nodes.names.learner_node_key(1))) is None or not Node.of(
                held.value
            ).met:
                await asyncio.sleep(0.05)
        await nodes.bucket.put(nodes.names.over_key, b"done")
        async with asyncio.timeout(30):
            await asyncio.gather(first.server.until_stopped(), second.server.until_stopped())
        assert (first.code, second.code) == (exits.DONE, exits.DONE)


async def test_a_meeting_of_an_earlier_life_is_none_to_look_for_a_mark_of(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node 0 died while it met, and another one comes when somebody looks already."""
    monkeypatch.setattr(shared.find_mark, "__defaults__", (4.0,))
    stale = Group(7, State.MEETING, "127.0.0.1:1", "a mark that is not there", "gone")
    await nodes.bucket.put(nodes.names.learner_group_key, stale.value())
    async with nodes.node("b", rank=1):
        await asyncio.sleep(1.0)  # it looks
        async with nodes.node("a", rank=0):
            assert {rank for rank, _, _ in await nodes.began(2)} == {0, 1}
            await nodes.until(State.RUNNING, 8)


async def test_a_node_that_is_asked_to_end_is_not_done(nodes: Nodes) -> None:
    async with nodes.node("a") as (first, living), nodes.node("b"):
        lives = await nodes.began(2)
        first.server.stop()  # as SIGTERM does
        await asyncio.wait_for(living, 30)
        assert first.code == exits.FAILED
        (pid,) = (pid for rank, pid, _ in lives if rank == 0)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert "asked to end" in (nodes.folder / "began").read_text(), "it had the time to end well"


async def test_a_node_0_that_was_replaced_decides_nothing_more(nodes: Nodes, bus: Bus) -> None:
    former, later = Board(bus, nodes.names, 2), Board(bus, nodes.names, 2)
    await former.take()
    await former.decide(Group(1, State.MEETING))
    assert (await later.take()).incarnation == 1
    await later.decide(Group(2, State.MEETING))
    with pytest.raises(Overtaken, match="another process is node 0"):
        await former.decide(Group(1, State.ENDED))
    await later.decide(Group(2, State.RUNNING))
    assert (await nodes.group()) == Group(2, State.RUNNING)


async def test_a_run_that_is_over_is_met_for_no_more(nodes: Nodes) -> None:
    async with nodes.node("a") as (process, _):
        await nodes.until(State.MEETING, 1)
        await nodes.bucket.put(nodes.names.over_key, b"failed")
        async with asyncio.timeout(30):
            await process.server.until_stopped()
        assert process.code == exits.FAILED


async def test_a_group_that_dies_at_once_again_and_again_ends_the_learner(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.learner.nodes.node.SHORT_LIVES", 2)
    async with nodes.node("a") as (first, _), nodes.node("b") as (second, _):
        for life in (1, 2):
            await nodes.began(2 * life)
            nodes.end(0, exits.FAILED, "rank 0: out of luck", 2)
        async with asyncio.timeout(30):
            await asyncio.gather(first.server.until_stopped(), second.server.until_stopped())
        assert (first.code, second.code) == (exits.BAD_INPUT, exits.BAD_INPUT)
        assert (await nodes.group()).reason == "2 times in a row: rank 0: out of luck"
