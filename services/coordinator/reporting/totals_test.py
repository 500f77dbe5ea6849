"""Totals of a run that is seen in pieces, over any restarts, are those of one that is seen at once."""

import json
import random

import pytest

from penstock.telemetry import steps
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.reporting.totals import Totals


def reports(rng: random.Random) -> dict[int, pb.StepReport]:
    made = {}
    for step in range(1, rng.randint(2, 30)):
        metrics = {steps.STEP_SECONDS: rng.random(), steps.STALENESS_MAX: float(rng.randint(0, 4))}
        if rng.random() < 0.8:
            metrics[steps.REWARD_MEAN] = rng.uniform(-1, 1)
        if rng.random() < 0.5:
            metrics[steps.member(steps.SAMPLES_FAILED, "reward")] = 2.0
        made[step] = pb.StepReport(step=step, metrics=metrics)
        made[step].at.FromSeconds(1000 + step)
    return made


@pytest.mark.parametrize("seed", range(20))
def test_in_pieces_and_over_restarts_they_are_the_same(seed: int) -> None:
    rng = random.Random(seed)
    said, totals = reports(rng), Totals()
    for newest in said:
        if rng.random() < 0.3:
            totals.see({s: r for s, r in said.items() if s <= newest})
        if rng.random() < 0.2:
            later = Totals()
            later.restore(json.loads(json.dumps(totals.state())))
            totals = later
    totals.see(said)
    rewards = [r.metrics[steps.REWARD_MEAN] for r in said.values() if steps.REWARD_MEAN in r.metrics]
    assert (totals.steps, totals.first, totals.last) == (len(said), rewards[:5], rewards[-5:])
    assert totals.seconds == pytest.approx(sum(r.metrics[steps.STEP_SECONDS] for r in said.values()))
    assert (totals.began, totals.ended) == (1001.0, 1000.0 + len(said))
    assert totals.failed["FAILURE_REWARD"] == sum(
        r.metrics.get(steps.member(steps.SAMPLES_FAILED, "reward"), 0.0) for r in said.values()
    )
