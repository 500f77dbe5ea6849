"""A power cut of NATS' disk: no acknowledged sample is lost."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

CANNOT = "a file system of its own needs root and mkfs.ext4"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mkfs.ext4") is None, reason=CANNOT)
def test_a_power_cut_loses_no_acknowledged_sample(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "tests.chaos.power_cut", str(tmp_path / "cut"), "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "mount" in done.stderr and "CalledProcessError" in done.stderr:
        pytest.skip(f"no loop device can be mounted here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["acknowledged"] > 0 and found["lost"] == 0, found
