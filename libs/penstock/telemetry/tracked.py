"""How trackers call a metric: one name in TensorBoard, Weights & Biases and MLflow, in groups that all of them show.

    rl.policy.entropy            →  policy/entropy
    rl.reward.component.parsed   →  reward/component.parsed
    rl.loss                      →  train/loss
    pass@1 of an evaluation      →  eval/pass_at_1

Invariant (test name): no two metrics of the register share a name, or that of an evaluation.
"""

import re

EVALUATION = "eval"
_ALONE = "train"  # the group of metrics that name none
_LONGEST = 250
_ODD = re.compile(r"[^\w.\- ]")


def tracked(name: str) -> str:
    """What trackers call a metric of metrics.jsonl."""
    group, _, rest = name.removeprefix("rl.").partition(".")
    return _grouped(group, rest) if rest else _grouped(_ALONE, group)


def tracked_evaluation(name: str) -> str:
    """What trackers call a metric of evaluations.jsonl."""
    return _grouped(EVALUATION, name)


def _grouped(group: str, name: str) -> str:
    return f"{_ODD.sub('_', group)}/{_ODD.sub('_', name.replace('@', '_at_'))}"[:_LONGEST]
