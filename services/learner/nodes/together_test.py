"""Real ranks of two nodes, each under a launcher of its own: they meet, one is killed or stopped, they meet again."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from penstock.bus import EmbeddedServer

HUNG, SOON = 6.0, 90.0


@contextmanager
def node(
    nats: EmbeddedServer, folder: pathlib.Path, name: str, behaviour: str = "steps"
) -> Iterator["subprocess.Popen[str]"]:
    """A node with two ranks."""
    program = [sys.executable, "-m", "services.learner.nodes.together_testing"]
    command = [*program, nats.url, name, str(folder), str(HUNG), behaviour]
    log = (folder / f"{name}.log").open("w")
    variables = {**os.environ, "PENSTOCK_TEST_RANKS": "2"}
    process = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=variables, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()  # what it started dies with it
        process.wait()
        log.close()


def ranks(folder: pathlib.Path, lives: int) -> dict[int, int]:
    """Waits until every rank of the newest of so many lives has come to step 3; their processes."""
    end = time.monotonic() + SOON
    while True:
        said = [line.split() for name in "ab" for line in (folder / f"{name}.log").read_text().splitlines()]
        ready = [(int(words[1]), int(words[2])) for words in said if words[:1] == ["ready"]]
        if len(ready) == 4 * lives:
            alive = {rank: pid for rank, pid in ready if pathlib.Path(f"/proc/{pid}").exists()}
            if len(alive) == 4:
                return alive
        texts = {name: (folder / f"{name}.log").read_text()[-2000:] for name in "ab"}
        assert time.monotonic() < end, texts
        time.sleep(0.1)  # a file announces nothing


@pytest.mark.usefixtures("names")
async def test_ranks_of_two_nodes_are_one_group_over_every_loss(nats: EmbeddedServer, tmp_path: pathlib.Path) -> None:
    with node(nats, tmp_path, "a"), node(nats, tmp_path, "b"):
        found = ranks(tmp_path, 1)
        assert sorted(found) == [0, 1, 2, 3]
        os.kill(found[3], signal.SIGKILL)
        found = ranks(tmp_path, 2)
        os.kill(found[0], signal.SIGSTOP)
        last = ranks(tmp_path, 3)
        assert not set(last.values()) & set(found.values())
        said = (tmp_path / "a.log").read_text() + (tmp_path / "b.log").read_text()
        assert said.count("rank 3 (process ") >= 1 and "was killed by SIGKILL" in said
        assert "has shown no sign of life for 6 s" in said
    for pid in last.values():
        until = time.monotonic() + 30
        while pathlib.Path(f"/proc/{pid}").exists():
            assert time.monotonic() < until, "a rank outlived its node"
            time.sleep(0.1)


@pytest.mark.usefixtures("names")
async def test_ranks_of_two_nodes_end_well_together_and_nobody_waits_for_who_is_gone(
    nats: EmbeddedServer, tmp_path: pathlib.Path
) -> None:
    with node(nats, tmp_path, "a", "ends") as first, node(nats, tmp_path, "b", "ends") as second:
        ready = time.monotonic() + SOON
        while not all("ready" in (tmp_path / f"{name}.log").read_text() for name in "ab"):
            assert time.monotonic() < ready, (tmp_path / "a.log").read_text()[-2000:]
            time.sleep(0.1)  # a file announces nothing
        began = time.monotonic()
        assert (first.wait(SOON), second.wait(SOON)) == (0, 0), (tmp_path / "a.log").read_text()[-2000:]
        assert time.monotonic() - began < 30, "half of the time in which a launcher gives a store up"
    for name in "ab":
        said = (tmp_path / f"{name}.log").read_text()
        assert '"level": "error"' not in said and "Traceback" not in said, said[-3000:]
