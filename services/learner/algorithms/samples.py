"""A trajectory of the log as training samples: one for each of its contexts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.trajectories import Drawn, contexts, from_float32s, from_int32s
from penstock.trajectories.routes import unpacked
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.batch import TrainingSample


def sequences(t: pb.Trajectory, group: int, signals: Sequence[float]) -> list[TrainingSample]:
    """The sample's contexts, which are one answer where answers are averaged. signals: one for all, or one for each."""
    every = contexts(t)
    each_own = list(signals) * (len(every) if len(signals) == 1 else 1)
    return [sample(each, group, own, t.index) for each, own in zip(every, each_own, strict=True)]


def sample(t: Drawn, group: int, signal: float | ArrayLike = 0.0, member: int | None = None) -> TrainingSample:
    """signal: one number, or one per token. member: see TrainingSample."""
    return TrainingSample(
        tokens=from_int32s(t.tokens),
        loss_mask=np.frombuffer(t.loss_mask, np.uint8),
        behaviour_logprobs=from_float32s(t.logprobs),
        signal=signal,
        group=group,
        member=member,
        versions=versions(t),
        routes=_routes(t),
    )


def _routes(t: Drawn) -> NDArray[np.integer] | None:
    """As TrainingSample has them: two bytes are read as signed, which torch computes with."""
    rows = unpacked(t.routes) if t.HasField("routes") else None
    return rows.view(np.int16) if rows is not None and rows.itemsize == 2 else rows


def versions(t: Drawn) -> NDArray[np.int64]:
    """int64 [token_count]: the version (step) that drew each token; 0 before the first that one drew."""
    drawn = np.zeros(t.token_count, np.int64)
    for segment in t.version_segments:
        drawn[segment.first :] = segment.version.step
    return drawn
