"""What must hold of a trajectory before it is published and again before it is trained on.

The proto's rules say that arrays agree in length; these say that their contents make sense together. A trajectory that
breaks one becomes FAILED{invalid}: it never becomes a trained sample, and never a reward of 0.
"""

import itertools
import math

import numpy as np

from penstock.rules import bounds
from penstock.rules.protos import violations
from penstock.rules.quarantine import BadEntry
from penstock.trajectories.arrays import from_float32s, from_int32s
from penstock.trajectories.branches import Drawn, contexts
from penstock.trajectories.routes import unpacked
from penstock.trajectory.v1 import trajectory_pb2 as pb


class TrajectoryError(BadEntry):
    """A trajectory that must not be used. The text names the field and the value."""


def check_trajectory(t: pb.Trajectory) -> None:
    """Raises TrajectoryError unless every invariant of trajectory.proto holds."""
    broken = violations(t)
    if broken:
        raise TrajectoryError(f"{name(t)}: {broken[0].field}: {broken[0].description}")
    _check_outcome(t)
    _check_rewards(t)
    if t.outcome.status != pb.Outcome.STATUS_FAILED:
        for i, each in enumerate(contexts(t)):
            where = name(t) if i == 0 else f"{name(t)}: branches[{i - 1}]"
            _check_arrays(each, where)
            _check_segments(each, where)
            _check_routes(each, where)
        _check_branches(t)


def name(t: pb.Trajectory) -> str:
    """The sample's id for messages."""
    return f"{t.run}/{t.group}/{t.index}"


def oldest_step(t: pb.Trajectory) -> int | None:
    """The step of the oldest version that produced one of its tokens; None if no version did (demonstrations)."""
    return min((s.version.step for each in contexts(t) for s in each.version_segments), default=None)


def newest_step(t: pb.Trajectory) -> int | None:
    """The step of the newest of them."""
    return max((s.version.step for each in contexts(t) for s in each.version_segments), default=None)


def _check_outcome(t: pb.Trajectory) -> None:
    failed = t.outcome.status == pb.Outcome.STATUS_FAILED
    if failed != (t.outcome.failure != pb.Outcome.FAILURE_UNSPECIFIED):
        raise TrajectoryError(f"{name(t)}: outcome.failure must be set exactly when outcome.status is FAILED")
    if failed and t.HasField("reward"):
        raise TrajectoryError(f"{name(t)}: a failed sample has no reward (got {t.reward})")
    if t.index >= t.group_size:
        raise TrajectoryError(f"{name(t)}: index {t.index} must be below group_size {t.group_size}")


def _check_rewards(t: pb.Trajectory) -> None:
    if len(t.components) > bounds.MOST_COMPONENTS:
        raise TrajectoryError(
            f"{name(t)}: {len(t.components)} components of the reward, at most {bounds.MOST_COMPONENTS} are taken"
        )
    for part in t.components:
        if len(part.name) > bounds.LONGEST_NAME:
            raise TrajectoryError(f"{name(t)}: a component's name has more than {bounds.LONGEST_NAME} characters")
    numbers = {"reward": t.reward} | {f"components[{c.name}].value": c.value for c in t.components}
    numbers |= {f"components[{c.name}].weight": c.weight for c in t.components}
    numbers |= {f"branch_rewards[{i}]": value for i, value in enumerate(t.branch_rewards)}
    if t.branch_rewards and len(t.branch_rewards) != len(contexts(t)):
        raise TrajectoryError(
            f"{name(t)}: {len(t.branch_rewards)} branch_rewards; there must be one for each of {len(contexts(t))} "
            "contexts"
        )
    for field, value in numbers.items():
        if abs(value) > bounds.LARGEST_REWARD:
            raise TrajectoryError(f"{name(t)}: {field} is {value:g}, beyond {bounds.LARGEST_REWARD:g}")


def _check_branches(t: pb.Trajectory) -> None:
    if t.branches and t.teacher_logprobs:
        raise TrajectoryError(f"{name(t)}: a teacher judges one context, and the sample has {len(t.branches)} branches")
    if t.teacher_logprobs and not np.isfinite(from_float32s(t.teacher_logprobs)).all():
        raise TrajectoryError(f"{name(t)}: teacher_logprobs holds a value that is not finite")
    every = contexts(t)
    for i, j in itertools.permutations(range(len(every)), 2):
        if every[j].tokens.startswith(every[i].tokens):
            shown = ["the main context", *(f"branches[{n}]" for n in range(len(t.branches)))]
            raise TrajectoryError(f"{name(t)}: {shown[i]} begins {shown[j]}; it belongs into it")


def _check_arrays(t: Drawn, where: str) -> None:
    if t.token_count < 2:
        raise TrajectoryError(f"{where}: token_count {t.token_count} is below 2, nothing can be predicted")
    mask = t.loss_mask  # as bytes: most samples are short, and numpy's calls cost more than their work then
    if other := mask.translate(None, b"\x00\x01"):
        raise TrajectoryError(f"{where}: loss_mask holds {max(other)}; it must be 0 or 1")
    if 1 not in mask:
        raise TrajectoryError(f"{where}: loss_mask has no trained token")
    if mask[0]:
        raise TrajectoryError(f"{where}: loss_mask[0] is 1, but nothing precedes the first token")
    logprobs = from_float32s(t.logprobs)
    least, most = float(np.minimum.reduce(logprobs)), float(np.maximum.reduce(logprobs))  # either is NaN where one is
    if not (math.isfinite(least) and math.isfinite(most)):
        at = int(np.flatnonzero(~np.isfinite(logprobs))[0])
        raise TrajectoryError(f"{where}: logprobs[{at}] is {logprobs[at]}; it must be finite")
    if most > 1e-4:
        at = int(np.argmax(logprobs))
        raise TrajectoryError(f"{where}: logprobs[{at}] is {logprobs[at]}; a log-probability is at most 0")
    if np.count_nonzero(logprobs[np.frombuffer(mask, np.uint8) == 0]):
        raise TrajectoryError(f"{where}: logprobs must be 0 where loss_mask is 0")
    if np.minimum.reduce(from_int32s(t.tokens)) < 0:
        raise TrajectoryError(f"{where}: tokens holds a negative id")


def _check_routes(t: Drawn, where: str) -> None:
    if not t.HasField("routes"):
        return
    if t.routes.first or t.routes.count >= t.token_count:
        raise TrajectoryError(
            f"{where}: routes has {t.routes.count} rows from {t.routes.first} on; they begin at 0, and the last of "
            f"{t.token_count} tokens has none"
        )
    try:
        unpacked(t.routes)
    except ValueError as error:
        raise TrajectoryError(f"{where}: routes: {error}") from error


def _check_segments(t: Drawn, where: str) -> None:
    firsts = [s.first for s in t.version_segments]
    if firsts != sorted(set(firsts)):
        raise TrajectoryError(f"{where}: version_segments must have increasing `first` (got {firsts[:8]})")
    if firsts and firsts[-1] >= t.token_count:
        raise TrajectoryError(f"{where}: version_segments[-1].first {firsts[-1]} is beyond token_count {t.token_count}")
    if firsts and t.loss_mask.find(1) < firsts[0]:
        raise TrajectoryError(f"{where}: version_segments start at {firsts[0]}, after the first trained token")
    for segment in t.version_segments:
        _check_version(where, segment.version.epoch, segment.version.step)


def _check_version(where: str, epoch: int, step: int) -> None:
    if step > bounds.MOST_STEP or epoch > bounds.MOST_EPOCH:
        raise TrajectoryError(f"{where}: version_segments name step {step} of epoch {epoch}; no run has so many")
