"""When a run is evaluated, and what an evaluation says. Pure.

Evaluations happen at version 0, every `every` steps, and at the last step. While one is due or under way receivers are
held at its version (weight_sync.HoldVersions), so every token of it comes from that version.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable

from penstock.ledger import Ledger
from penstock.recipes.sections import Evaluation
from penstock.telemetry import steps
from penstock.trajectories import trained_tokens
from penstock.trajectory.v1 import trajectory_pb2 as pb


def next_due(planned: Iterable[int], ledger: Ledger, given_up: set[int]) -> int | None:
    """The first planned step without a result; None when all are done."""
    return next((s for s in planned if s not in ledger.evaluations and s not in given_up), None)


def target_reached(wanted: Evaluation, ledger: Ledger) -> str:
    """Which evaluation reached the target reward or loss, as a sentence; empty if none did."""
    for step, result in sorted(ledger.evaluations.items()):
        for name, target, sign in (("reward", wanted.target_reward, 1), ("loss", wanted.target_loss, -1)):
            if target is not None and name in result.metrics and sign * (result.metrics[name] - target) >= 0:
                return (
                    f"evaluation of version {step}: {name} {result.metrics[name]:.4g} reached the target {target:.4g}"
                )
    return ""


def pass_at_k(samples: int, solved: int, k: int) -> float:
    """Chance that at least one of k of the n samples, drawn without replacement, is one of the c solved ones.

    1 − Π_{i=n−c+1..n} (1 − k/i), unbiased for the chance with fresh samples. Source: Chen et al. 2021,
    "Evaluating Large Language Models Trained on Code", section 2.1.

    Raises ValueError unless 1 <= k <= n and 0 <= c <= n.
    """
    if not 1 <= k <= samples or not 0 <= solved <= samples:
        raise ValueError(f"pass@k needs 1 <= k <= n and 0 <= c <= n; got n={samples}, c={solved}, k={k}")
    missed = 1.0
    for i in range(samples - solved + 1, samples + 1):
        missed *= max(0.0, 1.0 - k / i)  # below 0 where more are drawn than are unsolved
    return 1.0 - missed


def consensus(samples: Iterable[pb.Trajectory]) -> pb.Trajectory | None:
    """One sample of the answer that most samples give (the first such answer among equals); None without answers."""
    votes: dict[str, list[pb.Trajectory]] = defaultdict(list)
    for t in samples:
        if t.HasField("answer"):
            votes[t.answer].append(t)
    return max(votes.values(), key=len)[0] if votes else None


def report(
    step: int, samples: Iterable[pb.Trajectory], *, solved_at: float = 1.0, reward: str | None = None
) -> pb.EvaluationReport:
    """What the samples of one evaluation say.

    `reward`, `length` (generated tokens): means over scored samples. `failed`: samples without a score. `best_of_n`:
    mean over tasks of the best sample. `pass@k` for k = 1, 2, 4, … up to the samples that every task has: a sample
    whose reward is at least `solved_at` solves its task. `cons@n`: share of tasks whose most frequent answer is solved,
    where the reward names answers. `reward.<source>` where there are several sources of tasks, `component.<name>` where
    the reward has several parts.

    reward: the part that is measured, by name, whatever its weight; the weighted total if None.

    Raises ValueError if none was scored: no samples is an error, not a score of 0.
    """
    by_task: dict[tuple[str, str], list[pb.Trajectory]] = defaultdict(list)
    by_source: dict[str, list[float]] = defaultdict(list)
    by_part: dict[str, list[float]] = defaultdict(list)
    failed = 0
    for t in samples:
        if t.outcome.status == pb.Outcome.STATUS_FAILED:
            failed += 1
            continue
        for part in t.components:
            by_part[part.name].append(part.value)
        t = _measured(t, reward)
        by_task[t.source, t.task_id].append(t)
        by_source[t.source].append(t.reward)
    if not by_task:
        raise ValueError(f"evaluation of step {step}: none of {failed} samples was scored")
    scored = [t for group in by_task.values() for t in group]
    result = pb.EvaluationReport(step=step, samples=len(scored))
    result.at.GetCurrentTime()
    result.metrics["reward"] = statistics.fmean(t.reward for t in scored)
    result.metrics["best_of_n"] = statistics.fmean(max(t.reward for t in group) for group in by_task.values())
    result.metrics["length"] = statistics.fmean(trained_tokens(t) for t in scored)
    result.metrics["failed"] = float(failed)
    k, fewest = 1, min(len(group) for group in by_task.values())
    while k <= fewest:
        rates = [pass_at_k(len(group), sum(t.reward >= solved_at for t in group), k) for group in by_task.values()]
        result.metrics[f"pass@{k}"] = statistics.fmean(rates)
        k *= 2
    agreed = [c for c in map(consensus, by_task.values()) if c is not None]
    if fewest > 1 and len(agreed) == len(by_task):
        result.metrics[f"cons@{fewest}"] = statistics.fmean(c.reward >= solved_at for c in agreed)
    for family, by_name in (("reward", by_source), ("component", by_part)):
        if len(by_name) > 1:
            means = {name: statistics.fmean(values) for name, values in by_name.items()}
            result.metrics.update(steps.bounded(family, means))
    return result


def _measured(t: pb.Trajectory, part: str | None) -> pb.Trajectory:
    """The sample with the named part as its reward. Raises ValueError if it has none: its environment gives no such."""
    if part is None:
        return t
    values = [c.value for c in t.components if c.name == part]
    if not values:
        have = ", ".join(c.name for c in t.components) or "none"
        raise ValueError(f"evaluation.reward: samples of {t.environment} have no part {part!r}; they have {have}")
    measured = pb.Trajectory()
    measured.CopyFrom(t)
    measured.reward = values[0]
    return measured
