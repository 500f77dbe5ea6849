"""Versions that are tried in whole runs: planted faults are found, and what a rejected version drew is not trained."""

import json
import os
import pathlib
import subprocess
from typing import Any

PROMOTE, REJECT = "DECISION_PROMOTE", "DECISION_REJECT"
STEPS = 7


def played(folder: pathlib.Path, kind: str, reason: str) -> dict[str, Any]:
    """What came of a run; the first that was tried must have been rejected for the reason, and none behind it."""
    program = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_CHAOS_CANARY"])
    done = subprocess.run([program, str(folder / "run"), kind], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert not found["findings"] and found["steps"] == STEPS, found
    decisions, first = dict(found["decisions"]), found["tried"][0]
    decision, why = decisions.pop(first)
    assert decision == REJECT and why.startswith(reason), found
    assert int(first) not in found["drawn"], "a token of a rejected version was trained"
    assert {decision for decision, _ in decisions.values()} == {PROMOTE} and str(STEPS) in decisions, found
    return found


def test_a_version_that_disagrees_is_rejected_and_whoever_dies_in_the_middle_of_a_trial_it_goes_on(
    tmp_path: pathlib.Path,
) -> None:
    found = played(tmp_path, "goes-on", "engine and learner disagree")
    second = found["tried"][1]
    assert found["died"] and found["decisions"][second][0] == PROMOTE, "another engine took the place of the dead one"
    assert set(found["tried"]) <= set(found["decisions"]), "a trial that began is over before another begins"


def test_a_version_that_loses_its_reward_pauses_the_run_and_engines_are_back_within_seconds(
    tmp_path: pathlib.Path,
) -> None:
    found = played(tmp_path, "pauses", "the reward fell from")
    paused = " ".join(found["paused"].split())
    assert found["back"] < 5 and f"version {found['tried'][0]} was rejected by its trial" in paused, found
