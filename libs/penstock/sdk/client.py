"""Calling a reward service that may misbehave: every sample gets exactly one result.

Answers for other items, missing, repeated or non-finite ones become `Invalid` here, so that nothing else in Penstock
has to distrust a reward service.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from penstock.reward.v1 import reward_pb2
from penstock.sdk.samples import Invalid, Result, Scored, as_result


def checked_results(items: Sequence[str], answers: Iterable[reward_pb2.ScoreResult]) -> dict[str, Result]:
    """One result per item id, in the order of `items` (pure)."""
    found: dict[str, Result] = {}
    for answer in answers:
        if answer.id in found:
            found[answer.id] = Invalid("the reward service answered this item more than once")
            continue
        found[answer.id] = _result(answer)
    missing = Invalid("the reward service did not answer this item")
    strange = sorted(set(found) - set(items))
    if strange:
        missing = Invalid(f"the reward service answered {strange[0]!r:.60}, which was not asked, and not this item")
    return {item: found.get(item, missing) for item in items}


def _result(answer: reward_pb2.ScoreResult) -> Result:
    match answer.WhichOneof("result"):
        case "score":
            score = answer.score
            named = score.answer if score.HasField("answer") else None
            return as_result(Scored(score.value, dict(score.components), named))
        case "invalid":
            return Invalid(answer.invalid.reason or "the reward service gave no reason")
        case _:
            return Invalid("the reward service answered neither score nor invalid")
