"""A run whose services are on three hosts, with file trees of their own, goes on when one of them is cut off."""

import json
import os
import pathlib
import subprocess

import pytest

from tests.chaos.network import missing

WHY = missing()


@pytest.mark.skipif(bool(WHY), reason=WHY)
def test_a_run_on_three_hosts_outlives_a_partition_and_ends_by_itself(tmp_path: pathlib.Path) -> None:
    program = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_CHAOS_HOSTS"])
    done = subprocess.run([program, str(tmp_path / "run")], capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["findings"] == [] and found["steps"] == 6 and found["trained"] == 6 * 8 * 2, found
    assert set(found["codes"].values()) == {0}, found["codes"]
