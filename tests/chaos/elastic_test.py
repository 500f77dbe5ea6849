"""Engines and workers come and go during a run: no sample is lost, and none is trained twice."""

import json
import os
import pathlib
import subprocess


def test_scaling_up_and_down_costs_no_sample(tmp_path: pathlib.Path) -> None:
    program = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_CHAOS_ELASTIC"])
    done = subprocess.run([program, str(tmp_path / "run")], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert "generation 4 of 4 ready, rollout 3 of 3 ready" in found["up"], found
    assert found["down"].splitlines()[-1] == "generation 1 of 1 ready, rollout 1 of 1 ready", found
    assert len(found["engines"]) == 4, f"every engine had a share of the work: {found}"
    assert "every promise is kept" in " ".join(found["verify"].split()), found
