"""The quickstart, shortened: a tiny model gets better at a task it was never shown clean answers of."""

import json
import pathlib
import subprocess

from running_testing import adds_up, program


def test_held_out_accuracy_rises_by_thirty_points(tmp_path: pathlib.Path) -> None:
    command = [program("QUICKSTART"), "--runs", str(tmp_path / "runs"), "algorithm.steps=36"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=840)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    summary = json.loads((tmp_path / "runs" / "quickstart" / "summary.json").read_text())
    before, after = summary["eval"][0]["reward"], summary["eval"][-1]["reward"]
    assert 0.2 <= before <= 0.6
    assert after >= before + 0.3
    assert adds_up(summary) and summary["staleness"]["max"] <= 2
    assert "held-out accuracy" in done.stdout and "before" in done.stdout
