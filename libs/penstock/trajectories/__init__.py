"""Trajectories between protos, bytes and arrays, and the checks that keep a malformed one from being trained on."""

from penstock.trajectories.arrays import float32s, from_float32s, from_int32s, int32s
from penstock.trajectories.branches import Drawn, contexts, returns, trained_tokens
from penstock.trajectories.building import TrajectoryBuilder, demonstration, failed
from penstock.trajectories.checks import TrajectoryError, check_trajectory, newest_step, oldest_step
from penstock.trajectories.codec import decode, encode, without_excess
from penstock.trajectories.entries import read_sample, read_task, refused, sample_key
from penstock.trajectories.routes import RouteShape

__all__ = [
    "Drawn",
    "RouteShape",
    "TrajectoryBuilder",
    "TrajectoryError",
    "check_trajectory",
    "contexts",
    "decode",
    "demonstration",
    "encode",
    "failed",
    "float32s",
    "from_float32s",
    "from_int32s",
    "int32s",
    "newest_step",
    "oldest_step",
    "read_sample",
    "read_task",
    "refused",
    "returns",
    "sample_key",
    "trained_tokens",
    "without_excess",
]
