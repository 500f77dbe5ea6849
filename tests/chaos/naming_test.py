"""No silent wait: whatever a run waits for, `penstock explain` names it within ten seconds."""

import json
import os
import pathlib
import subprocess

from tests.chaos.naming import CASES

SECONDS = 10.0


def test_whatever_a_run_waits_for_is_named(tmp_path: pathlib.Path) -> None:
    program = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_CHAOS_NAMING"])
    done = subprocess.run([program, str(tmp_path / "run")], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    patience = SECONDS + 3 * found["a command"]  # a busy machine takes its time for the command itself
    assert set(CASES) < set(found)
    late = [role for role, seconds in found.items() if seconds is None or seconds > patience]
    assert not late, f"{found}\n{done.stderr[-4000:]}"
