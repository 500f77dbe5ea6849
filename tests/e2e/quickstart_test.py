"""The quickstart, shortened: a tiny model gets better at a task it was never shown clean answers of, though its rollout
worker, its coordinator and its generation service are killed on the way."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

from tests.e2e.testing.runs import POLL_SECONDS, adds_up, gone, pids, program

KILLS = {4: "rollout-0", 8: "coordinator", 12: "generation-0"}
WITHIN_SECONDS = 840


def test_held_out_accuracy_rises_by_thirty_points_whoever_is_killed(tmp_path: pathlib.Path) -> None:
    run, output = tmp_path / "runs" / "quickstart", tmp_path / "output.txt"
    command = [program("QUICKSTART"), "--runs", str(tmp_path / "runs"), "algorithm.steps=36"]
    with output.open("wb") as out:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out, start_new_session=True)
    try:
        killed = kill_on_the_way(process, run)
        code = process.wait(1)
        said = output.read_text(errors="replace")
        assert code == 0, said[-6000:]
        assert killed == list(KILLS.values())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pid in pids(tmp_path / "runs"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    summary = json.loads((run / "summary.json").read_text())
    before, after = summary["eval"][0]["reward"], summary["eval"][-1]["reward"]
    assert 0.2 <= before <= 0.6
    assert after >= before + 0.3
    assert summary["status"] == "done" and summary["steps"] == 36 and summary["staleness"]["max"] <= 2
    assert adds_up(summary) and summary["samples"]["in_flight"] == 0, summary["samples"]
    assert "held-out accuracy" in said and "before" in said
    assert gone(tmp_path / "runs", within=30)


def kill_on_the_way(process: "subprocess.Popen[bytes]", run: pathlib.Path) -> list[str]:
    """Kills each service when its step is done; returns who was killed when the command has ended."""
    killed: list[str] = []
    end = time.monotonic() + WITHIN_SECONDS
    while process.poll() is None and time.monotonic() < end:
        metrics = run / "metrics.jsonl"
        step = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        for at, service in KILLS.items():
            if step >= at and service not in killed and (found := pids(run, service)):
                os.kill(found[0], signal.SIGKILL)
                killed.append(service)
        time.sleep(POLL_SECONDS)
    return killed
