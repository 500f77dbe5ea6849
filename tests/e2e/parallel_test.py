"""Whole runs whose learner is several ranks: every step is trained, every sample accounted for, a model comes out."""

import json
import pathlib
import signal

import pytest

from penstock.tiny_model import make_model
from tests.e2e.testing.runs import adds_up, gone, recipe, reward_first_character, training

STEPS, GROUPS, SIZE = 4, 4, 4


@pytest.mark.parametrize(
    "sizes",
    [
        ("learner.parallel.tensor=2", "learner.parallel.sequence_parallel=true"),
        ("learner.parallel.pipeline=2",),
        (
            "learner.parallel.context=2",
            "learner.parallel.context_attention=ulysses",
            "learner.recompute=selective",
            "learner.offload=[optimizer]",
        ),
        ("learner.backend=transformers", "learner.optimizer.name=muon"),
        ("learner.backend=transformers", "learner.parallel.tensor=2"),
        (
            "learner.parallel.tensor=2",
            "learner.lora={rank: 4, publish: adapters}",
            "learner.optimizer.learning_rate=1.0e-2",  # so that an engine that merges something else shows
        ),
    ],
    ids=["tensor", "pipeline", "context", "transformers", "transformers-tensor", "adapters"],
)
def test_a_run_on_two_ranks_completes_and_its_counts_add_up(tmp_path: pathlib.Path, sizes: tuple[str, ...]) -> None:
    path = recipe(tmp_path, steps=STEPS)
    with training(tmp_path, path, "learner.ranks=2", *sizes) as run:
        assert run.end(within=400) == 0, run.report("the run failed")
        summary = run.summary()
        assert summary["status"] == "done" and summary["steps"] == STEPS
        assert adds_up(summary) and summary["samples"]["in_flight"] == 0
        assert summary["samples"]["trained"] == STEPS * GROUPS * SIZE, summary["samples"]
        steps = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
        assert [s["step"] for s in steps] == list(range(1, STEPS + 1))
        # What the engine sampled is what the ranks score: a layout that computes something else shows here at once.
        assert max(s["rl.policy.mismatch_kl"] for s in steps) < 0.05
        assert summary["staleness"]["max"] <= 2
        assert (run.run / "export" / "model.safetensors").is_file()
        assert gone(run.run, within=30), run.report("processes were left behind")


def test_a_mixture_trains_on_the_routes_that_were_drawn(tmp_path: pathlib.Path) -> None:
    """In bfloat16, where engine and learner choose otherwise for some tokens; nobody has to ask for it."""
    path = recipe(tmp_path, steps=STEPS)
    make_model(tmp_path / "assets" / "model", layers=3, intermediate=64, experts=8)
    reward_first_character(path)
    with training(tmp_path, path, "learner.ranks=2", "learner.parallel.expert=2", "model.dtype=bfloat16") as run:
        assert run.end(within=400) == 0, run.report("the run failed")
        assert adds_up(run.summary())
        steps = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
        assert [s["rl.routes.known"] for s in steps] == [1.0] * STEPS, "every input of every sample"
        assert 0 < max(s["rl.routes.apart"] for s in steps) < 0.5
        # Without replay the first step's is ten times as much (tests/bench/routes.py).
        assert steps[0]["rl.policy.mismatch_kl"] < 1e-4


def test_a_stopped_run_goes_on_under_another_layout(tmp_path: pathlib.Path) -> None:
    path = recipe(tmp_path, steps=6)
    with training(tmp_path, path, "learner.ranks=2", "learner.parallel.tensor=2") as run:
        run.until_step(2, within=240)
        run.process.send_signal(signal.SIGINT)
        assert run.end(within=120) == 0, run.report("Ctrl-C did not end the run well")
        assert run.summary()["status"] == "stopped"
    with training(tmp_path, path, "learner.ranks=2", "learner.parallel.pipeline=2") as run:
        assert run.end(within=400) == 0, run.report("the resumed run failed")
        assert "resharding" in (run.run / "logs" / "learner.log").read_text()
        summary = run.summary()
        assert summary["status"] == "done" and summary["steps"] == 6
        assert adds_up(summary) and summary["samples"]["in_flight"] == 0
        steps = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
        assert [s["step"] for s in steps] == list(range(1, 7))
        assert max(s["rl.policy.mismatch_kl"] for s in steps) < 0.05
