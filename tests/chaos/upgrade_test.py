"""Services are replaced by those of another release while a run goes on, and one that is too far away is refused."""

import json
import os
import pathlib
import re
import subprocess

from penstock.system.version import VERSION
from tests.chaos.upgrade import FAR, NEXT, ROLES


def test_each_service_is_replaced_in_its_turn_and_the_run_loses_nothing(tmp_path: pathlib.Path) -> None:
    program = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_CHAOS_UPGRADE"])
    done = subprocess.run([program, str(tmp_path / "run")], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["before"].values()) == {VERSION}
    assert {role: found["after"][role] for role in ROLES} == dict.fromkeys(ROLES, NEXT)
    assert found["after"]["learner"] == VERSION and found["left"] == found["after"]
    sentence = f"this is Penstock {FAR}, and .* of the run is .*: releases work together within one minor version"
    assert found["code"] == 2 and re.search(sentence, found["words"]), found
    assert found["starts"] == 1 and found["steps"] >= 2 * len(ROLES) + 3
    assert "every promise is kept" in " ".join(found["verify"].split()), found
