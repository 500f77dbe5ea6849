"""A run on NATS, before any of its services can work: its streams and consumers, and its recipe for whoever joins.

Needs an operator's credentials: services make none of these.
"""

from __future__ import annotations

from typing import Literal, get_args

from penstock.bus import Bucket, Bus, RunLimits, RunNames, TaskConsumer, TaskKind, ensure_run
from penstock.recipes import Recipe, dump


async def make_run(bus: Bus, recipe: Recipe, durability: Literal["verify", "trust"] = "verify") -> None:
    """Makes what is missing; what is there goes on. Idempotent.

    durability: as of `RunLimits`.
    Raises UnsafeServer, StreamMismatch, BusError.
    """
    names = RunNames(recipe.run)
    await ensure_run(
        bus, names, RunLimits(log_bytes=recipe.limits.log_bytes, replicas=recipe.limits.replicas, durability=durability)
    )
    for kind in get_args(TaskKind):
        await TaskConsumer(bus, names, kind).ensure()  # a rollout may make none
    bucket = Bucket(bus, names)
    await bucket.put(names.over_key, b"")
    await bucket.put(names.stopping_key, b"")  # who makes it again wants it to go on
    await bucket.put(names.recipe_key, dump(recipe).encode())
