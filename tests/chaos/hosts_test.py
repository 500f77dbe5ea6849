"""A run whose services are on three hosts, with file trees of their own, goes on when one of them is cut off."""

import json
import os
import pathlib
import subprocess
from typing import Any

import pytest

from tests.chaos.network import missing

WHY = missing()
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)


def run(folder: pathlib.Path, *words: str) -> dict[str, Any]:
    """What came of a run in which everything is accounted for, and every process ended by itself."""
    program = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_CHAOS_HOSTS"])
    done = subprocess.run([program, str(folder), *words], capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["findings"] == [] and found["steps"] == 6 and found["trained"] == 6 * 8 * 2, found
    assert set(found["codes"].values()) == {0}, found["codes"]
    return found


def test_a_run_on_three_hosts_outlives_a_partition_and_ends_by_itself(tmp_path: pathlib.Path) -> None:
    run(tmp_path / "run")


def test_a_learner_on_two_hosts_outlives_a_partition_and_the_loss_of_a_node(tmp_path: pathlib.Path) -> None:
    """Under mutual TLS, with an identity for each kind and its user of NATS."""
    found = run(tmp_path / "run", "--nodes", "2", "--secured")
    assert "its nodes meet again" in found["learner"]
    assert "learner-c was killed by SIGKILL and is started again" in " ".join(found["kept"].split())
    assert {"learner-b", "learner-c"} <= set(found["codes"])
