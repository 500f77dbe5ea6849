"""The commands of this folder's README: the reward in Node keeps the contract."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from penstock.bus.embedded import free_ports

HERE = pathlib.Path(__file__).parent


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm, which comes with Node, is not on this machine")
def test_the_reward_in_node_keeps_the_contract(tmp_path: pathlib.Path) -> None:
    for name in ("server.js", "package.json", "package-lock.json"):
        shutil.copy(HERE / name, tmp_path)
    protos = pathlib.Path(os.environ["PENSTOCK_PROTO_FOLDER"]).absolute()
    commands = "\n".join(re.findall(r"^    (.*)$", (HERE / "README.md").read_text(), re.M))
    for said, meant in (
        ("../../.bazel/bin/proto/folder", str(protos)),
        ("7000", str(free_ports(1)[0])),
        ("penstock-conformance", f"{sys.executable} -m penstock.sdk.conformance"),
    ):
        assert said in commands
        commands = commands.replace(said, meant)
    script = f"trap 'kill %1; wait %1' EXIT\nset -e\n{commands}\n"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "streams the same answers: not offered" in done.stdout
    assert done.stdout.splitlines()[-1] == "passed"
