"""Versions that are tried in whole runs: planted faults are found, and what a rejected version drew is not trained."""

import json
import os
import pathlib
import subprocess
from typing import Any

import pytest

PROMOTE, REJECT = "DECISION_PROMOTE", "DECISION_REJECT"


def tried(folder: pathlib.Path, fault: str) -> dict[str, Any]:
    program = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_CHAOS_CANARY"])
    done = subprocess.run([program, str(folder / "run"), fault], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert not found["findings"] and found["steps"] == 5
    rejected = {int(step) for step, (decision, _) in found["decisions"].items() if decision == REJECT}
    assert not rejected & set(found["drawn"]), "a token of a rejected version was trained"
    return found


@pytest.mark.parametrize(
    ("fault", "reason"), [("scores", "engine and learner disagree"), ("long", "the reward fell from")]
)
def test_a_version_with_a_fault_is_rejected_with_the_right_reason(
    fault: str, reason: str, tmp_path: pathlib.Path
) -> None:
    found = tried(tmp_path, fault)
    decision, why = found["decisions"]["1"]
    assert decision == REJECT and why.startswith(reason)
    assert found["decisions"]["5"][0] == PROMOTE, "later versions have no fault"
    if fault == "long":
        assert found["back"] < 5 and "version 1 was rejected by its trial" in " ".join(found["paused"].split())


@pytest.mark.parametrize("fault", ["dies", "restart"])
def test_a_good_version_is_promoted_whoever_dies_in_the_middle(fault: str, tmp_path: pathlib.Path) -> None:
    found = tried(tmp_path, fault)
    assert {decision for decision, _ in found["decisions"].values()} == {PROMOTE}
    assert "5" in found["decisions"] and found["died"] == (fault == "dies")
