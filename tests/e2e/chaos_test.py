"""kill -9 of any service in a running run: the run goes on, ends well, and every sample is accounted for."""

import json
import pathlib

from tests.e2e.testing.runs import adds_up, gone, recipe, training

STEPS, GROUPS, SIZE = 14, 4, 4


def test_the_run_survives_kill_9_of_every_service(tmp_path: pathlib.Path) -> None:
    path = recipe(tmp_path, steps=STEPS)
    with training(tmp_path, path) as run:
        run.until_step(2, within=240)
        run.kill("rollout-0")
        run.until_step(4, within=120)
        run.kill("coordinator")
        run.until_step(6, within=120)
        run.kill("generation-0")
        run.until_step(8, within=240)
        run.kill("environment-0")
        run.kill("weight_sync")
        run.until_step(10, within=240)
        run.kill("learner")
        assert run.end(within=400) == 0, run.report("the run failed")
        summary = run.summary()
        assert summary["status"] == "done" and summary["steps"] == STEPS
        assert adds_up(summary), summary["samples"]
        assert summary["samples"]["in_flight"] == 0
        # Every step trained a whole batch, less members that a kill made fail; none was trained twice.
        assert summary["samples"]["trained"] + summary["samples"]["failed"] >= STEPS * GROUPS * SIZE
        steps = [json.loads(line)["step"] for line in (run.run / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, STEPS + 1))
        assert summary["staleness"]["max"] <= 2
        assert (run.run / "export" / "model.safetensors").is_file()
        assert gone(run.run, within=30), run.report("processes were left behind")
