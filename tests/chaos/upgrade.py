"""A rolling upgrade: `python -m tests.chaos.upgrade FOLDER` prints what came of it, as JSON.

While the run goes on each kind of service but the learner is replaced by a process of the next patch release, one after
the other; then one of a release that is too far away tries to join. It says who announced which release, how the last
one ended, how many steps there were, and what `penstock verify` says.
"""

import argparse
import asyncio
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

from penstock.bus import RunNames
from penstock.cli.streams import streams_of
from penstock.membership import watching
from penstock.supervisor.plan import kind_of
from penstock.system.version import VERSION
from tests.chaos.elastic import recipe, running
from tests.chaos.one_run import RUN, STALLED_SECONDS, Disturbed

ROLES = ("weight_sync", "generation-0", "environment-0", "rollout-0", "coordinator")
MAJOR, MINOR, PATCH = map(int, VERSION.split("."))
NEXT, FAR = f"{MAJOR}.{MINOR}.{PATCH + 1}", f"{MAJOR}.{MINOR + 2}.0"
REFUSED_SECONDS = 60


def launched(folder: pathlib.Path, releases: pathlib.Path) -> None:
    """Has the services that are replaced started by `released.py`."""
    program = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_CHAOS_RELEASED"])
    folder.mkdir(parents=True)
    releases.mkdir()
    for kind in map(kind_of, ROLES):
        script = folder / kind
        script.write_text(f'#!/bin/sh\nexec "{program}" {kind} "{releases}" "$@"\n')
        script.chmod(0o755)
        os.environ[f"PENSTOCK_LAUNCH_{kind.upper()}"] = str(script)
    os.environ["PENSTOCK_CHAOS_FAKE_ENGINE"] = str(folder / "generation")


async def announced(run: Disturbed, role: str = "", release: str = "") -> dict[str, str]:
    """The release of everybody who takes part, once a role is READY with the given one."""
    async with streams_of(run.run) as bus, watching(bus, RunNames(RUN)) as watcher, asyncio.timeout(STALLED_SECONDS):
        await watcher.until(
            lambda view: not role or any((m.instance, m.version) == (role, release) for m in view.ready(kind_of(role))),
            f"{role} of release {release}",
            on=role,
        )
        return {each.instance: each.version for each in watcher.view.members()}


def replaced(run: Disturbed, role: str) -> None:
    """Ends a process as an operator does, and waits until one of the next release is in its place."""
    for pid in run.processes(role):
        os.kill(pid, signal.SIGTERM)
    asyncio.run(announced(run, role, NEXT))


def refused(run: Disturbed, releases: pathlib.Path) -> tuple[int, str]:
    """How one more rollout ends that is of a release which is too far away, and its last words."""
    (pid,) = run.processes("rollout-0")
    far = releases.with_name("far")
    far.mkdir()
    (far / "rollout").write_text(FAR)
    words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    other = {"rollout-0": "rollout-far", str(releases): str(far)}
    words = [other.get(word, word) for word in words]
    words[words.index("--listen") + 1] = "127.0.0.1:0"
    pairs = pathlib.Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    environment = dict(pair.partition("=")[::2] for pair in pairs if pair)
    done = subprocess.run(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=REFUSED_SECONDS
    )
    return done.returncode, done.stdout.strip().splitlines()[-1]


def main(folder: pathlib.Path) -> dict[str, Any]:
    releases = folder / "releases"
    launched(folder / "launch", releases)
    with running(folder, recipe(folder / "assets")) as run:
        before = asyncio.run(announced(run))
        for role in ROLES:
            (releases / kind_of(role)).write_text(NEXT)
            replaced(run, role)
            run.until_step(run.step + 2)
        after = asyncio.run(announced(run))
        code, words = refused(run, releases)
        run.until_step(run.step + 2)
        left = asyncio.run(announced(run))
    found = {"before": before, "after": after, "left": left, "code": code, "words": words, "starts": run.starts}
    return found | {"steps": run.step, "verify": run.told("verify", RUN)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    print(json.dumps(main(parser.parse_args().folder.absolute())))  # noqa: T201 - its answer
    sys.exit(0)
