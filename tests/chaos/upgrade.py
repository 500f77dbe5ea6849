"""A rolling upgrade: `python -m tests.chaos.upgrade FOLDER` prints what came of it, as JSON.

While the run goes on each kind of service but the learner is replaced by a process of the next patch release, one after
the other; then one of a release that is too far away tries to join. It says who announced which release, how the last
one ended, how many steps there were, and what `penstock verify` says.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

from penstock.system.version import VERSION
from tests.chaos.elastic import recipe, running
from tests.chaos.one_run import RUN, STALLED_SECONDS, Broken, Disturbed

ROLES = ("weight_sync", "generation-0", "environment-0", "rollout-0", "coordinator")
MAJOR, MINOR, PATCH = map(int, VERSION.split("."))
NEXT, FAR = f"{MAJOR}.{MINOR}.{PATCH + 1}", f"{MAJOR}.{MINOR + 2}.0"
REFUSED_SECONDS = 60


def launched(folder: pathlib.Path, releases: pathlib.Path) -> None:
    """Has the services that are replaced started by `released.py`."""
    program = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_CHAOS_RELEASED"])
    folder.mkdir(parents=True)
    releases.mkdir()
    for kind in (role.partition("-")[0] for role in ROLES):
        script = folder / kind
        script.write_text(f'#!/bin/sh\nexec "{program}" {kind} "{releases}" "$@"\n')
        script.chmod(0o755)
        os.environ[f"PENSTOCK_LAUNCH_{kind.upper()}"] = str(script)
    os.environ["PENSTOCK_CHAOS_FAKE_ENGINE"] = str(folder / "generation")


def announced(run: Disturbed) -> dict[str, str]:
    """The release of everybody who takes part; nothing while the coordinator is away."""
    try:
        members = json.loads(run.told("status", RUN, "--json")).get("members", [])
    except ValueError:
        return {}
    return {each["instance"]: each["version"] for each in members}


def replaced(run: Disturbed, role: str) -> None:
    """Ends a process as an operator does, and waits until one of the next release is in its place."""
    for pid in run.processes(role):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + STALLED_SECONDS
    while announced(run).get(role) != NEXT:
        if time.monotonic() > end:
            raise Broken(f"no {role} of release {NEXT} takes part: {announced(run)}")


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
        before = announced(run)
        for role in ROLES:
            (releases / role.partition("-")[0]).write_text(NEXT)
            replaced(run, role)
            run.until_step(run.step + 2)
        after = announced(run)
        code, words = refused(run, releases)
        run.until_step(run.step + 2)
        left = announced(run)
    found = {"before": before, "after": after, "left": left, "code": code, "words": words, "starts": run.starts}
    return found | {"steps": run.step, "verify": run.told("verify", RUN)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    print(json.dumps(main(parser.parse_args().folder.absolute())))  # noqa: T201 - its answer
    sys.exit(0)
