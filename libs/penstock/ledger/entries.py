"""A decision as the ledger stream has it: read, or refused as a BadEntry before anything of it is folded.

Invariant (test name): whatever is wrong with an entry is a BadEntry.
"""

import json
import math
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from penstock.names import LedgerKind, group_number, ledger_key
from penstock.rules import bounds
from penstock.rules.protos import violations
from penstock.rules.quarantine import BadEntry
from penstock.trajectory.v1 import trajectory_pb2 as pb

Decision = pb.LedgerEvent | pb.BatchRecord | pb.StepReport | pb.EvaluationReport | pb.RecipeRecord | pb.VersionDecision
_MESSAGES: dict[LedgerKind, type[Decision]] = {
    "group": pb.LedgerEvent,
    "batch": pb.BatchRecord,
    "step": pb.StepReport,
    "eval": pb.EvaluationReport,
    "recipe": pb.RecipeRecord,
    "version": pb.VersionDecision,
}


def read_decision(subject: str, payload: bytes) -> Decision:
    """The decision of a ledger entry: of what its subject names. Raises BadEntry."""
    try:
        kind, key = ledger_key(subject)
        decision = _MESSAGES[kind].FromString(payload)
        if kind == "group":
            group_number(key)
    except (ValueError, DecodeError) as error:
        raise BadEntry(f"not a decision: {error}") from error
    named = _named(decision)
    if named != key:
        raise BadEntry(f"{subject!r} holds a decision about {named!r:.80}")
    for wrong in _wrong(decision):
        raise BadEntry(f"{subject!r}: {wrong}")
    return decision


def _named(decision: Decision) -> str:
    match decision:
        case pb.LedgerEvent():
            return decision.group
        case pb.RecipeRecord():
            return str(decision.number)
        case _:
            return str(decision.step)


def _wrong(decision: Decision) -> Iterator[str]:
    for broken in violations(decision):
        yield f"{broken.field}: {broken.description}"
    match decision:
        case pb.LedgerEvent():
            yield from _wrong_event(decision)
        case pb.BatchRecord():
            yield from _wrong_batch(decision)
        case pb.RecipeRecord():
            yield from _wrong_recipe(decision)
        case _:
            if decision.step > bounds.MOST_STEP:
                yield f"step {decision.step} is beyond {bounds.MOST_STEP}"


def _wrong_event(event: pb.LedgerEvent) -> Iterator[str]:
    admitted = event.admitted
    if event.writer_epoch > bounds.MOST_EPOCH:
        yield f"writer_epoch {event.writer_epoch} is beyond {bounds.MOST_EPOCH}"
    if max(admitted.at_step, admitted.min_step, event.expired.age) > bounds.MOST_STEP:
        yield f"a step or an age is beyond {bounds.MOST_STEP}"
    if max(admitted.row, admitted.draw) > bounds.MOST_NUMBER:
        yield f"row or draw is beyond {bounds.MOST_NUMBER}"
    if event.HasField("admitted") and not 0 < admitted.group_size <= bounds.MOST_GROUP:
        yield f"a group of {admitted.group_size} samples"
    if event.HasField("filtered"):
        if event.filtered.reason not in pb.FilterReason.values():
            yield f"filtered.reason {event.filtered.reason} is unknown"
        yield from _wrong_reward(event.filtered)


def _wrong_batch(record: pb.BatchRecord) -> Iterator[str]:
    if record.writer_epoch > bounds.MOST_EPOCH or record.step > bounds.MOST_STEP:
        yield f"step {record.step} of epoch {record.writer_epoch}; no run has so many"
    schedule = record.schedule
    rates = (schedule.learning_rate, schedule.final_ratio)
    numbers = (schedule.warmup_steps, schedule.decay_steps, schedule.steps)
    if not all(math.isfinite(rate) and rate >= 0 for rate in rates) or max(numbers) > bounds.MOST_STEP:
        yield "its schedule has a rate that is negative or not finite, or steps that no run has"
    names = [part.group for part in record.groups]
    if not names or len(set(names)) != len(names):
        yield "a batch has groups, and each once"
    for part in record.groups:
        if not part.indices or len(set(part.indices)) != len(part.indices):
            yield f"groups[{part.group!r:.80}] has members, and each once"
        if len(part.indices) != len(part.log_sequences):
            yield f"groups[{part.group!r:.80}]: {len(part.indices)} members at {len(part.log_sequences)} places"
        yield from _wrong_reward(part)


def _wrong_recipe(record: pb.RecipeRecord) -> Iterator[str]:
    if max(record.step, record.number) > bounds.MOST_STEP:
        yield f"recipe {record.number} of step {record.step}; no run has so many"
    try:
        said = json.loads(record.recipe_json)
    except (ValueError, RecursionError) as error:
        yield f"recipe_json: {error}"
    else:
        if not isinstance(said, dict):
            yield "recipe_json is no object"


def _wrong_reward(said: pb.BatchGroup | pb.Filtered) -> Iterator[str]:
    if not math.isfinite(said.reward) or abs(said.reward) > bounds.LARGEST_REWARD:
        yield f"reward {said.reward:g} is not within ±{bounds.LARGEST_REWARD:g}"
