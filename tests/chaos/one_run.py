"""One disturbed run from a seed: `python -m tests.chaos.one_run FOLDER SEED FAULTS` prints what came of it as JSON.

Where it is root it takes a network and a mount namespace of its own first, so that it can cut and fill what no other
process uses; all of it vanishes with its processes.
"""

import argparse
import asyncio
import ctypes
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from penstock.audit import read_run
from penstock.bus import RunNames, load_payload, read
from penstock.cli.streams import streams_of
from penstock.ledger import Fate
from penstock.recipes import load
from penstock.supervisor.plan import instances
from penstock.system import exits
from penstock.system.parent_death import die_with_parent
from penstock.trajectories import decode
from tests.chaos.faults import LAUNCHER, PACE, Fault, Host, chosen, parted, wrong_clock
from tests.chaos.shapes import ENDLESS, KINDS, assets, shape

DISK, DISK_BYTES = "disk", 512 << 20
STALLED_SECONDS = 240.0
BETWEEN = 0.8
"""Most seconds between two faults."""
END_SECONDS = 120.0
RUN = "r"
PENSTOCK = (sys.executable, "-m", "penstock.cli")


def isolate(folder: pathlib.Path) -> bool:
    """A loopback and a disk that are this process' and its children's alone; False where it may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() or shutil.which("ip") is None or libc.unshare(0x40000000 | 0x00020000):  # NEWNET | NEWNS
        return False
    libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None)  # MS_REC | MS_PRIVATE
    if libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, b"size=%d" % DISK_BYTES):
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with suppress(subprocess.CalledProcessError):
        parted()
    return True


class Disturbed:
    """A run of `penstock train` under way, started again by the same command whenever its launcher is killed."""

    def __init__(self, folder: pathlib.Path, recipe: dict[str, Any]) -> None:
        self.folder, self.run = folder, folder / DISK / "runs" / RUN
        self.file = folder / "recipe.json"
        self.file.write_text(json.dumps(recipe))
        self.roles = [*instances(load(self.file)), "nats"]
        self.starts, self._killed = 0, dict[str, float]()
        self.clock = folder / "clock"
        self._environment = {**os.environ, **wrong_clock(self.clock)}
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        self.starts += 1
        with (self.folder / f"train-{self.starts}.log").open("wb") as out:
            return subprocess.Popen(
                [*PENSTOCK, "train", str(self.file), "--runs", str(self.run.parent)],
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env=self._environment,
                preexec_fn=die_with_parent,
            )

    @property
    def step(self) -> int:
        """Steps that are in metrics.jsonl."""
        with suppress(OSError):
            return (self.run / "metrics.jsonl").read_bytes().count(b"\n")
        return 0

    def processes(self, role: str) -> list[int]:
        """Those of a role, now."""
        if role == LAUNCHER:
            return [self.process.pid]
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                program = "nats-server" in words[0] if role == "nats" else role in words
                if program and any(str(self.run) in word for word in words):
                    found.append(int(entry.name))
        return sorted(found)

    def port(self, role: str) -> int:
        """Where a role listens now; 0 while that is not known."""
        with suppress(OSError, ValueError):
            address = json.loads((self.run / "addresses.json").read_text()).get(role, "")
            return int(address.rpartition(":")[2] or 0)
        return 0

    @property
    def over(self) -> bool:
        """Whether it has come to its end, also just before its launcher was killed. Raises Broken if it has failed."""
        code = self.process.poll()
        if code == exits.BAD_INPUT and self.starts > 1 and "holds a finished run" in self.words():
            return True
        if code:
            raise Broken(f"the run ended with {code}: {self.words()}")
        return code == 0

    def rests(self, role: str) -> bool:
        """Whether it was killed a moment ago."""
        return time.monotonic() - self._killed.get(role, -PACE) < PACE

    def inflicted(self, fault: Fault) -> None:
        """Notes a fault, and starts the run again where it was the launcher's end."""
        if fault.kind == "kill":
            self._killed[fault.role] = time.monotonic()
            if fault.role == LAUNCHER:
                self.process.wait()
                self._gone()
                self.process = self._start()

    def _gone(self) -> None:
        """Waits until no process of a killed launcher is left: the kernel ends them with it."""
        end = time.monotonic() + 30
        while any(self.processes(role) for role in self.roles):
            if time.monotonic() > end:
                left = {role: found for role in self.roles if (found := self.processes(role))}
                raise Broken(f"processes outlive their killed launcher: {left}")
            time.sleep(0.1)

    def until_step(self, step: int) -> None:
        """Waits for a step. Raises Broken if the run has ended or stands still."""
        end = time.monotonic() + STALLED_SECONDS
        while self.step < step:
            if self.over:
                return
            if time.monotonic() > end:
                explained = self.told("explain", RUN)
                raise Broken(f"no step {step} within {STALLED_SECONDS:g} s: {explained[:4000]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Asks the run to end and waits for it."""
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            raise Broken(f"it did not stop within {END_SECONDS:g} s: {self.told('explain', RUN)}") from None
        if code:
            raise Broken(f"it stopped with {code}: {self.words()}")

    def finish(self) -> None:
        """Waits for the end that its recipe sets."""
        try:
            self.process.wait(END_SECONDS + STALLED_SECONDS)
        except subprocess.TimeoutExpired:
            raise Broken(f"it did not end: {self.told('explain', RUN)}") from None
        if not self.over:
            raise Broken("it is not over")

    def words(self) -> str:
        """The last that the command said."""
        return (self.folder / f"train-{self.starts}.log").read_text(errors="replace")[-1500:]

    def told(self, *words: str) -> str:
        """What a command says of the run."""
        command = [*PENSTOCK, *words, "--runs", str(self.run.parent)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, timeout=END_SECONDS)
        return done.stdout + done.stderr


class Broken(Exception):
    """The run did not keep a promise; the text says which."""


async def trained_lengths(run: pathlib.Path) -> tuple[list[int], list[str], int]:
    """Lengths of the completions of trained groups, what `verify` finds, and samples trained."""
    recipe = json.loads((run.parents[2] / "recipe.json").read_text())
    names, lengths = RunNames(RUN), list[int]()
    async with streams_of(run) as bus:
        audit, verdict = await read_run(bus, names, recipe["staleness"]["max_versions"])
        async for entry in read(bus, names.log, live=False):
            t = decode(await load_payload(bus, names, entry.payload))
            group = audit.ledger.groups.get(t.group)
            if group is not None and group.fate is Fate.TRAINED:
                lengths.append(t.loss_mask.count(1))
    return lengths, verdict.findings, audit.ledger.samples.trained


def replayed(run: Disturbed) -> str:
    """What is wrong with a replay of the run's log, undisturbed: nothing if it gives the very same weights."""
    said = run.told("replay", RUN)
    weights = [run.run.with_name(name) / "export" / "model.safetensors" for name in (RUN, f"{RUN}-replay")]
    if not weights[1].is_file():
        return f"the replay failed: {said}"
    return "" if weights[0].read_bytes() == weights[1].read_bytes() else "a replay of its log gives other weights"


def play(folder: pathlib.Path, seed: int, faults: int, fake: bool, kind: str = "") -> dict[str, Any]:
    """Disturbs a run of the seed's shape so many times; what came of it. fake: whether its engines are. kind: as of
    `shape`."""
    rng = random.Random(seed)
    (folder / DISK).mkdir()
    isolated = isolate(folder / DISK)
    recipe = shape(rng, assets(folder / "assets"), fake, kind)
    done, problem, run = Counter[str](), "", Disturbed(folder, recipe)
    host, lengths, findings, trained = (
        Host(folder / DISK, run.processes, run.port, run.clock),
        list[int](),
        list[str](),
        0,
    )
    again = 0
    try:
        run.until_step(1)
        while done.total() < faults and not run.over:
            fault = chosen(rng, run.roles, isolated, run.rests)
            if host.inflict(fault, rng):
                done[f"{fault.kind} {fault.role.rpartition('-')[0] or fault.role}".strip()] += 1
                run.inflicted(fault)
            time.sleep(rng.uniform(0, BETWEEN))
            if done.total() % 8 == 0:
                run.until_step(run.step + 1)
        run.until_step(run.step + 1)
        if recipe["algorithm"]["steps"] == ENDLESS:
            run.stop()
        else:
            run.finish()
            if recipe["learner"]["ranks"] == 1:
                problem, again = replayed(run), 1
        lengths, findings, trained = asyncio.run(trained_lengths(run.run))
    except Broken as broken:
        problem = str(broken)
    finally:
        with suppress(ProcessLookupError):
            run.process.kill()
        run.process.wait()
    a = recipe["algorithm"]
    known = fake and a["name"] == "grpo" and recipe["environment"]["name"] == "length"  # the law of its lengths
    return {
        "seed": seed,
        "shape": f"{a['name']} {recipe['environment']['name']} {a['groups_per_step']} x {a['group_size']}, staleness "
        f"{recipe['staleness']['max_versions']}, ranks {recipe['learner']['ranks']}",
        "isolated": isolated,
        "faults": done,
        "starts": run.starts,
        "steps": run.step,
        "trained": trained,
        "replayed": again,
        "lengths": Counter(lengths) if known else {},
        "problems": [each for each in (problem, *findings) if each],
    }


def main(args: argparse.Namespace) -> int:
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.engine == "fake":
        os.environ["PENSTOCK_LAUNCH_GENERATION"] = os.environ["PENSTOCK_CHAOS_FAKE_ENGINE"]
    found = play(args.folder.absolute(), args.seed, args.faults, args.engine == "fake", args.kind)
    print(json.dumps(found))  # noqa: T201 - its answer
    if found["problems"] and args.keep is not None:
        shutil.copytree(args.folder, args.keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("nats", "versions"))
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("faults", type=int)
    parser.add_argument("--engine", choices=["fake", "real"], default="fake", help="what generation launches")
    parser.add_argument("--kind", choices=KINDS, default="", help="what is played; any but an agent where absent")
    parser.add_argument("--keep", type=pathlib.Path, help="where the folder of a run that broke a promise is kept")
    sys.exit(main(parser.parse_args()))
