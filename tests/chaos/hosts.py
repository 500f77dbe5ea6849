"""One run on three hosts that share no files: `python -m tests.chaos.hosts FOLDER [--nodes 2] [--secured]`.

    a    NATS, coordinator, weight_sync, the data
    b    the learner, the model's weights
    c    generation (a named fake), rollout, environment: `penstock join`

With two nodes the learner's second is on c, which has the weights then, and shares the run's folder with b. In the
middle c is parted from the others for SECONDS; a second node is then killed, and its `penstock join` starts it again.
The run must come to its end, every process must end by itself, and `verify` must find nothing. What came of it is
printed as JSON.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from penstock.audit import read_run
from penstock.bus import EmbeddedServer, RunNames, connect, server_command, write_config
from penstock.bus.embedded import STORE
from penstock.process.joining import DOMAIN
from tests.chaos.network import Host, network
from tests.chaos.secured import Secured
from tests.chaos.shapes import assets, shape

RUN, STEPS, SECONDS = "r", 6, 10.0
NATS_PORT = 4222
NAMED = "r.hosts"
"""With certificates hosts are known below it by their addresses with dashes, as pods are."""
WITHIN = 240.0
PENSTOCK = (sys.executable, "-m", "penstock.cli")


def recipe(folder: pathlib.Path, nodes: int) -> dict[str, Any]:
    """A run of STEPS steps over the assets of `folder`."""
    made = shape(random.Random(0), assets(folder), fake=True)
    rows = str(folder / "rows.jsonl")
    made["data"], made["environment"] = {"train": rows, "eval": rows}, {"name": "length"}
    made["algorithm"] = {"name": "grpo", "steps": STEPS, "groups_per_step": 8, "group_size": 2}
    made["staleness"], made["evaluation"] = {"max_versions": 1}, {"tasks": 2, "every": 0}
    made["learner"] |= {"ranks": nodes, "nodes": nodes}
    made["generation"]["replicas"] = made["rollout"]["workers"] = 1
    made["learner"]["checkpoints"] = {"every": 2}
    return made


class Hosts:
    """The run in `folder`, on hosts a, b and c. nodes: of the learner; secured: with certificates and identities."""

    def __init__(self, folder: pathlib.Path, hosts: dict[str, Host], nodes: int, secured: bool) -> None:
        self.nodes = nodes
        addresses = [host.address for host in hosts.values()]
        self.secured = Secured(folder / "secrets", RUN, addresses, NAMED) if secured else None
        known = folder / "known"
        known.write_text("".join(f"{each} {each.replace('.', '-')}.{NAMED}\n" for each in addresses))
        self.folder, self.a, self.b, self.c = folder, hosts["a"], hosts["b"], hosts["c"]
        self.nats = f"nats://{self.a.address}:{NATS_PORT}"
        self.metrics = folder / "a" / RUN / "metrics.jsonl"
        self.services: dict[str, subprocess.Popen[bytes]] = {}
        shared = folder / "assets"
        self.recipe = folder / "a" / "recipe.json"
        self.recipe.parent.mkdir()
        made = recipe(shared, nodes) | ({"security": self.secured.recipe} if self.secured is not None else {})
        self.recipe.write_text(json.dumps(made))
        for host in hosts.values():  # each has its own files, and none sees another's
            own = folder / host.name
            own.mkdir(exist_ok=True)
            left = ["*.jsonl"] if host is not self.a else []
            left += ["*.safetensors"] if host is self.c and nodes == 1 else []
            shutil.copytree(shared, own / "assets", ignore=shutil.ignore_patterns(*left))
            host.bind(own / "assets", shared)
            host.bind(known, pathlib.Path("/etc/hosts"))
            for other in hosts.values():
                if other is not host:
                    (folder / other.name).mkdir(exist_ok=True)
                    host.hide(folder / other.name)

    def start(self) -> None:
        """Everything, in the order of docs/fleet/hosts.md."""
        store, secured = self.folder / "a" / "nats", self.secured
        users, files = (secured.users(), secured.files()) if secured is not None else ({}, None)
        config = write_config(store, store / STORE, NATS_PORT, 8222, host=self.a.address, users=users, tls=files)
        self._start(self.a, "nats", *server_command(config))
        monitor = f"http{'s' if secured is not None else ''}://{self.a.address}:8222"
        shown = secured.login("operator") if secured is not None else []
        self._run(self.a, "create", str(self.recipe), "--nats", self.nats, "--monitor", monitor, *shown)
        for kind in ("weight_sync", "coordinator"):
            self._serve(self.a, kind, kind, self.folder / "a" / RUN)
        learns = self.folder / "shared" / RUN
        if self.nodes == 1:
            self._serve(self.b, "learner", "learner-b", learns)
        for node in (self.b, self.c)[: self.nodes if self.nodes > 1 else 0]:
            self._join(node, f"learner-{node.name}", learns, "learner=1")
        self._join(self.c, "join", self.folder / "c" / RUN, "generation=1", "rollout=1", "environment=1")

    def _join(self, host: Host, name: str, folder: pathlib.Path, *counts: str) -> None:
        kept = ["--folder", str(folder), "--place", host.name]
        kept += ["--flag=--insecure"] if self.secured is None else self.secured.join()
        self._start(host, name, *PENSTOCK, "join", self.nats, RUN, *counts, *kept)

    def _serve(self, host: Host, kind: str, name: str, folder: pathlib.Path) -> None:
        place = ["--folder", str(folder), "--listen", "0.0.0.0:0", "--name", name]
        place += ["--insecure"] if self.secured is None else self.secured.service(kind)
        joins = ("--join", self.nats, "--run", RUN, *place, "--ends-with-run")
        self._start(host, name, *PENSTOCK, "serve", kind, *joins)

    def kill(self, name: str) -> None:
        """kill -9 of what a `penstock join` keeps under a name; its ranks have the same command, and die with it."""
        own = {("--name", name), ("--run-directory", str(self.folder / "shared" / RUN))}
        found = {pid: parent for pid, parent, words in _processes() if own <= {*itertools.pairwise(words)}}
        (top,) = (pid for pid, parent in found.items() if parent not in found)
        os.kill(top, signal.SIGKILL)

    def until_step(self, step: int) -> None:
        """Waits for a step. Raises RuntimeError if a process has ended, or nothing comes."""
        end = time.monotonic() + WITHIN
        while not self.metrics.is_file() or self.metrics.read_text().count("\n") < step:
            for name, process in self.services.items():
                if process.poll():
                    raise RuntimeError(f"{name} ended with {process.returncode}: {self._words(name)}")
            if time.monotonic() > end:
                raise RuntimeError(f"no step {step}: {' / '.join(self._words(name) for name in self.services)}")
            time.sleep(0.1)  # a file announces nothing

    def ended(self) -> dict[str, int]:
        """Waits until every process but NATS has ended by itself; their exit codes."""
        end = time.monotonic() + WITHIN
        codes = {}
        for name, process in self.services.items():
            if name != "nats":
                try:
                    codes[name] = process.wait(max(1.0, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    raise RuntimeError(f"{name} does not end: {self._words(name)}") from None
        self.services["nats"].terminate()
        self.services["nats"].wait()
        return codes

    def _start(self, host: Host, name: str, *command: str) -> None:
        named = {DOMAIN: NAMED} if self.secured is not None else {}
        self.services[name] = host.start(command, self.folder / "logs" / f"{name}.log", named)

    def _run(self, host: Host, *words: str) -> None:
        self._start(host, words[0], *PENSTOCK, *words)
        if self.services.pop(words[0]).wait(WITHIN):
            raise RuntimeError(self._words(words[0]))

    def _words(self, name: str) -> str:
        return f"{name}: {(self.folder / 'logs' / f'{name}.log').read_text(errors='replace')[-1500:]}"


def _text(path: pathlib.Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _processes() -> Iterator[tuple[int, int, list[str]]]:
    """Every process here: its id, its parent's, and its command."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            yield int(path.name), int((path / "stat").read_text().rpartition(")")[2].split()[1]), words


async def audited(folder: pathlib.Path) -> dict[str, Any]:
    """What the streams say of the run, once nobody writes them any more."""
    async with EmbeddedServer(folder / "a" / "nats", folder / "logs" / "nats-read.log") as server:
        async with connect(server.url, name="audit") as bus:
            audit, verdict = await read_run(bus, RunNames(RUN), 1)
            ledger = audit.ledger
            return {"findings": verdict.findings, "trained": ledger.samples.trained, "failed": ledger.samples.failed}


def main(folder: pathlib.Path, nodes: int, secured: bool) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PENSTOCK_LAUNCH_GENERATION"] = os.environ["PENSTOCK_CHAOS_FAKE_ENGINE"]
    assets(folder / "assets")
    with network(["a", "b", "c"]) as hosts:
        run = Hosts(folder, hosts, nodes, secured)
        run.start()
        run.until_step(2)
        before = run.metrics.read_text().count("\n")
        with run.c.parted():
            time.sleep(SECONDS)
            during = run.metrics.read_text().count("\n") - before
        if nodes > 1:
            run.until_step(before + 1)
            run.kill("learner-c")
        run.until_step(STEPS)
        codes = run.ended()
    return {
        "codes": codes,
        "learner": _text(folder / "shared" / RUN / "logs" / "learner-b.log"),
        "kept": _text(folder / "logs" / "learner-c.log"),
        "during": during,
        "steps": run.metrics.read_text().count("\n"),
        **asyncio.run(audited(folder)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--nodes", type=int, default=1, help="of the learner")
    parser.add_argument("--secured", action="store_true", help="certificates, identities and users of NATS")
    args = parser.parse_args()
    print(json.dumps(main(args.folder.absolute(), args.nodes, args.secured)))  # noqa: T201 - its answer
    sys.exit(0)
