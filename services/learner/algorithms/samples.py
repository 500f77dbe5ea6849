"""A trajectory of the log as a training sample."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.trajectories import from_float32s, from_int32s
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.interface.batch import TrainingSample


def sample(t: pb.Trajectory, group: int, signal: float | ArrayLike = 0.0) -> TrainingSample:
    """signal: one number, or one per token."""
    return TrainingSample(
        tokens=from_int32s(t.tokens),
        loss_mask=np.frombuffer(t.loss_mask, np.uint8),
        behaviour_logprobs=from_float32s(t.logprobs),
        signal=signal,
        group=group,
        versions=versions(t),
    )


def versions(t: pb.Trajectory) -> NDArray[np.int64]:
    """int64 [token_count]: the version (step) that drew each token; 0 before the first that one drew."""
    drawn = np.zeros(t.token_count, np.int64)
    for segment in t.version_segments:
        drawn[segment.first :] = segment.version.step
    return drawn
