"""When a run is evaluated, and what an evaluation says. Pure.

Evaluations happen at version 0, every `every` steps, and at the last step. While one is due or under way receivers are
held at its version (weight_sync.HoldVersions), so every token of it comes from that version.
"""

from collections import defaultdict
from collections.abc import Iterable

from penstock.ledger import Ledger
from penstock.trajectory.v1 import trajectory_pb2 as pb


def schedule(every: int, steps: int) -> list[int]:
    """The steps to evaluate, in order."""
    return sorted({0, steps, *(range(every, steps, every) if every else ())})


def next_due(planned: Iterable[int], ledger: Ledger, given_up: set[int]) -> int | None:
    """The first planned step without a result; None when all are done."""
    return next((s for s in planned if s not in ledger.evaluations and s not in given_up), None)


def report(step: int, samples: Iterable[pb.Trajectory]) -> pb.EvaluationReport:
    """Means over scored samples. Raises ValueError if none was scored: no samples is an error, not a score of 0."""
    by_task: dict[str, list[float]] = defaultdict(list)
    lengths: list[int] = []
    failed = 0
    for t in samples:
        if t.outcome.status == pb.Outcome.STATUS_FAILED:
            failed += 1
            continue
        by_task[t.task_id].append(t.reward)
        lengths.append(sum(t.loss_mask))
    if not by_task:
        raise ValueError(f"evaluation of step {step}: none of {failed} samples was scored")
    rewards = [r for group in by_task.values() for r in group]
    result = pb.EvaluationReport(step=step, samples=len(rewards))
    result.at.GetCurrentTime()
    result.metrics["reward"] = sum(rewards) / len(rewards)
    result.metrics["best_of_n"] = sum(max(group) for group in by_task.values()) / len(by_task)
    result.metrics["length"] = sum(lengths) / len(lengths)
    result.metrics["failed"] = float(failed)
    return result
