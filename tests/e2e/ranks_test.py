"""A rank of the learner that is killed or stopped: it is named, its group started again, nothing lost or doubled.

Meanwhile another user of the machine gets nothing from the run."""

import json
import os
import pathlib
import signal
import subprocess
import sys

from tests.e2e.testing.runs import adds_up, gone, recipe, training

STEPS = 24


def intrusion(run: pathlib.Path) -> dict[str, object]:
    """What another user got who tried everything."""
    command = [sys.executable, "-m", "tests.e2e.testing.intruder", str(run)]
    said: dict[str, object] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=240).stdout)
    return said


def assert_closed(got: dict[str, object]) -> None:
    """Every door was tried, and none was open."""
    calls = {what: status for what, status in got.items() if "penstock." in what}
    assert len(calls) > 20 and set(calls.values()) == {"UNAUTHENTICATED"}, calls
    assert "authorization violation" in str(got["nats"]).lower(), got
    assert (got["page"], got["page under another name"]) == (403, 421)
    assert {status for what, status in got.items() if what.startswith("read ")} <= {"refused"}, got


def test_the_run_survives_ranks_that_die_and_hang(tmp_path: pathlib.Path) -> None:
    path = recipe(tmp_path, steps=STEPS)
    overrides = ("learner.ranks=2", "learner.parallel.tensor=2", "learner.hung_seconds=8")
    with training(tmp_path, path, *overrides) as run:
        run.until_step(1, within=240)
        assert_closed(intrusion(run.run))
        run.until_step(run.step() + 2, within=240)
        killed = run.rank(1)
        os.kill(killed, signal.SIGKILL)
        run.said("learner", f"rank 1 (process {killed}) was killed by SIGKILL", within=60)
        run.until_step(run.step() + 3, within=240)  # the new group's ranks watch each other by then
        stopped = run.rank(0)
        os.kill(stopped, signal.SIGSTOP)
        run.said("learner", f"rank 0 (process {stopped} on ", within=60)
        run.said("learner", ", stopped) has shown no sign of life for 8 s", within=60)
        assert run.end(within=400) == 0, run.report("the run failed")
        summary = run.summary()
        assert summary["status"] == "done" and summary["steps"] == STEPS
        assert adds_up(summary) and summary["samples"]["in_flight"] == 0
        steps = [json.loads(line)["step"] for line in (run.run / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, STEPS + 1))
        assert gone(run.run, within=30), run.report("processes were left behind")
