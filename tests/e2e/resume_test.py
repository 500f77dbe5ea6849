"""A killed or stopped run goes on where it was with the same command; a finished one goes on for more steps."""

import json
import os
import pathlib
import signal

from tests.e2e.testing.runs import adds_up, gone, recipe, training

STEPS = 9
RATE = "learner.optimizer.learning_rate"


def test_kill_9_of_the_command_leaves_nothing_behind_and_the_run_resumes(tmp_path: pathlib.Path) -> None:
    path = recipe(tmp_path, steps=STEPS)
    with training(tmp_path, path) as run:
        run.until_step(3, within=240)
        os.kill(run.process.pid, signal.SIGKILL)
        run.process.wait()
        assert gone(run.run, within=20), run.report("children outlived their parent")
        reached = run.step()
    with training(tmp_path, path) as run:
        run.until_step(reached + 2, within=240)
        run.process.send_signal(signal.SIGINT)
        assert run.end(within=120) == 0, run.report("Ctrl-C did not end the run well")
        assert run.summary()["status"] == "stopped"
        assert gone(run.run, within=20)
    with training(tmp_path, path, "rollout.workers=2", "weight_sync.keep_versions=2", f"{RATE}=0.0002") as run:
        assert run.end(within=400) == 0, run.report("the resumed run failed")
        summary = run.summary()
        assert (run.run / "logs" / "rollout-1.log").is_file(), "it goes on with another worker"
        assert summary["status"] == "done" and summary["steps"] == STEPS
        assert adds_up(summary) and summary["samples"]["in_flight"] == 0
        rows = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
        assert (rows[0]["rl.policy.learning_rate"], rows[-1]["rl.policy.learning_rate"]) == (0.0001, 0.0002)
        changed = [text.partition(": ")[2] for text in summary["changes"]]
        assert changed == [
            f"{RATE} 0.0001 -> 0.0002",
            "rollout.workers 1 -> 2",
            "weight_sync.keep_versions 4 -> 2",
        ]
    with training(tmp_path, path) as again:
        assert again.end(within=60) == 2  # a finished run is refused, with the way out
        assert "finished run" in again.report("")
    with training(tmp_path, path, f"algorithm.steps={STEPS + 2}") as longer:
        assert longer.end(within=240) == 0, longer.report("a finished run did not go on for more steps")
        assert longer.summary()["steps"] == STEPS + 2 and adds_up(longer.summary())
