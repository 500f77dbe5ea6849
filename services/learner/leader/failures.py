"""Which samples around a batch failed, and for what: what says that a reward or an environment fails in part. Pure.

A cause is bounded in length and in kind, whatever the text of the failure: texts name single samples.

    "math: UNAVAILABLE: connection refused"  →  math.UNAVAILABLE      a reward that could not be asked
    "math: no such answer"                   →  math.invalid          one that gave no score
    anything that is no reward's             →  generation, environment, timeout, invalid
"""

import collections
import re
from collections.abc import Sequence

from penstock.ledger import Group
from penstock.telemetry import steps
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.group import CompleteGroup

_NAME, _STATUS = re.compile(r"[\w.\-/]{1,64}"), re.compile(r"[A-Z_]{2,32}")
_PREFIX = "FAILURE_"


def cause(kind: str, detail: str) -> str:
    """The cause of a failure of this kind (a name of Outcome.Failure) with this text."""
    name, _, rest = detail.partition(": ")
    if kind != "FAILURE_REWARD" or not _NAME.fullmatch(name):
        return _short(kind)
    status = rest.partition(":")[0]
    return f"{name}.{status}" if _STATUS.fullmatch(status) else f"{name}.invalid"


def failure_metrics(groups: Sequence[CompleteGroup], failed: Sequence[Group]) -> dict[str, float]:
    """The counts of the batch's failed members by kind, and the shares by cause of these and of whole groups.

    failed: groups that were released as failed since the batch before. Of such a group one text is known, which stands
    for all of its kind; where it is of another kind the reward is not known, and the cause is the kind.
    """
    outcomes = [m.trajectory.outcome for g in groups for m in g.members if not m.usable]
    kinds = collections.Counter(pb.Outcome.Failure.Name(o.failure) for o in outcomes)
    causes = collections.Counter(cause(pb.Outcome.Failure.Name(o.failure), o.detail) for o in outcomes)
    for group in failed:
        for kind, count in group.failures.items():
            causes[cause(kind, group.detail)] += count
    everybody = sum(len(g.members) for g in groups) + sum(g.admitted.group_size for g in failed)
    counts = {steps.member(steps.SAMPLES_FAILED, _short(kind)): float(count) for kind, count in kinds.items()}
    return counts | steps.bounded(steps.FAILED, {name: count / everybody for name, count in causes.items()})


def _short(kind: str) -> str:
    return kind.removeprefix(_PREFIX).lower()
