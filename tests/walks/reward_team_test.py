"""The reward team's walk: a reward in Node is trained with, and the policy learns what it pays for."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

from penstock.bus.embedded import free_ports
from tests.e2e.testing.runs import adds_up, recipe, training

NODE = pathlib.Path("examples/node_reward")
ANSWER = "a" * 8


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm, which comes with Node, is not on this machine")
def test_a_policy_learns_what_a_reward_in_node_pays(tmp_path: pathlib.Path) -> None:
    protos, address = pathlib.Path(os.environ["PENSTOCK_PROTO_FOLDER"]).absolute(), f"127.0.0.1:{free_ports(1)[0]}"
    for name in ("server.js", "package.json", "package-lock.json"):
        shutil.copy(NODE / name, tmp_path)
    subprocess.run(["npm", "ci"], cwd=tmp_path, check=True, timeout=240)
    path = recipe(tmp_path, steps=16, groups_per_step=4, group_size=8)
    settings = json.loads(path.read_text())
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i:x}", "answer": ANSWER}) + "\n" for i in range(64)))
    settings["data"] = {"train": str(rows), "eval": str(rows)}
    settings["environment"] = {"name": "letters", "rewards": [{"name": "letters", "address": address}]}
    settings["learner"]["optimizer"]["learning_rate"] = 3.0e-3
    path.write_text(json.dumps(settings))
    with subprocess.Popen(["node", "server.js", str(protos), address], cwd=tmp_path, stdout=subprocess.PIPE) as theirs:
        try:
            assert theirs.stdout is not None and theirs.stdout.readline(), "it says where it listens"
            with training(tmp_path, path) as run:
                assert run.end(within=500) == 0, run.report("the run failed")
                summary = run.summary()
        finally:
            theirs.kill()
    assert adds_up(summary) and summary["samples"]["failed"] == 0
    assert summary["reward_last"] > summary["reward_first"] + 0.05, summary
