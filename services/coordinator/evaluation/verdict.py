"""What becomes of a version that was tried: promoted, or rejected for a reason. Pure.

Invariants (test names): every fault is rejected with its own reason; what was not measured promotes nothing; a reward
is compared with what the version before got for the very same tasks.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from penstock.recipes.sections import Canary
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.evaluation.plan import report

Samples = Mapping[tuple[str, int], pb.Trajectory]
"""By the place of their task in the evaluation, and their index: the same of every version."""
LEAST_SCORED = 0.5
"""Of the samples that were wanted: with fewer a version was not tried."""
MOST_GAP = 20.0
"""A larger distance between two log-probs counts as this."""


@dataclasses.dataclass
class Found:
    """What a trial has found so far.

    Attributes: wanted: samples that were to be played. failure: why an engine could not take the version. held: whether
    one did. gaps: learner's minus engine's log-prob of every token that both were asked about; None where the version
    says nothing of any. samples, before: of the version, and of the one served before. before_reward: what that got,
    where its samples are gone.
    """

    wanted: int
    failure: str = ""
    held: bool = False
    gaps: Sequence[float] | None = None
    samples: Samples = dataclasses.field(default_factory=dict)
    before: Samples = dataclasses.field(default_factory=dict)
    before_reward: float | None = None


def verdict(canary: Canary, found: Found, part: str | None) -> tuple[str, dict[str, float]]:
    """Why the version is rejected, as a sentence (empty if it is promoted), and the numbers that say it.

    part: of the reward, that is measured; the whole where None.
    """
    numbers = {"samples": float(len(found.samples)), "samples_wanted": float(found.wanted)}
    if found.failure:
        return found.failure, numbers
    if not found.held:
        return f"no engine took it within {canary.seconds:g} s", numbers
    broken = [t for t in found.samples.values() if "finite" in t.outcome.detail]
    broken = [t for t in broken if t.outcome.failure == pb.Outcome.FAILURE_INVALID]
    infinite = sum(not math.isfinite(gap) for gap in found.gaps or ())
    if broken or infinite:
        numbers |= {"not_finite": float(len(broken) + infinite)}
        return f"log-probs are not finite: of {len(broken)} samples and {infinite} tokens that were scored", numbers
    if found.gaps:
        numbers["mismatch_kl"] = mismatch_kl(found.gaps)
        if numbers["mismatch_kl"] > canary.mismatch_kl:
            bound = f"{numbers['mismatch_kl']:.3g} exceeds mismatch_kl {canary.mismatch_kl:g}"
            return f"engine and learner disagree: a KL of {bound}", numbers
    scored = {key: t for key, t in found.samples.items() if t.outcome.status != pb.Outcome.STATUS_FAILED}
    numbers["scored"] = float(len(scored))
    if len(scored) < LEAST_SCORED * found.wanted:
        details = {t.outcome.detail for t in found.samples.values()} - {""}
        why = f"; one failed with: {min(details)}" if details else ""
        return f"{len(scored)} of {found.wanted} samples were scored within {canary.seconds:g} s{why}", numbers
    return _reward(canary, scored, found, part, numbers), numbers


def mismatch_kl(gaps: Sequence[float]) -> float:
    """Mean of e^d - 1 - d over the gaps d, an estimate of KL(engine, learner): what `rl.policy.mismatch_kl` is."""
    bounded = np.clip(np.asarray(gaps, np.float64), -MOST_GAP, MOST_GAP)
    return float(np.mean(np.expm1(bounded) - bounded))


def _reward(canary: Canary, scored: Samples, found: Found, part: str | None, numbers: dict[str, float]) -> str:
    before = {key: t for key, t in found.before.items() if t.outcome.status != pb.Outcome.STATUS_FAILED}
    same = scored.keys() & before.keys()
    if same:
        numbers["reward"], numbers["reward_before"] = (_mean(of, same, part) for of in (scored, before))
    else:
        numbers["reward"] = _mean(scored, scored.keys(), part)
        if found.before_reward is None:
            return ""
        numbers["reward_before"] = found.before_reward
    fallen = numbers["reward_before"] - numbers["reward"]
    if fallen <= canary.reward_drop:
        return ""
    return (
        f"the reward fell from {numbers['reward_before']:.4g} to {numbers['reward']:.4g}, by more than reward_drop "
        f"{canary.reward_drop:g}"
    )


def _mean(samples: Samples, keys: Iterable[tuple[str, int]], part: str | None) -> float:
    return report(0, [samples[key] for key in sorted(keys)], reward=part).metrics["reward"]
