"""A run on NATS, before any of its services can work: its streams and consumers, recipe and model bundle.

Needs an operator's credentials: services make none of these.
"""

from __future__ import annotations

import asyncio
import logging
import pathlib
from typing import Literal, get_args

from penstock.bus import Bucket, Bus, RunLimits, RunNames, TaskConsumer, TaskKind, ensure_run, store_payload
from penstock.cli.bundling import NoBundle, packed
from penstock.recipes import Recipe, dump

logger = logging.getLogger(__name__)


async def make_run(bus: Bus, recipe: Recipe, durability: Literal["verify", "trust"] = "verify") -> None:
    """Makes what is missing; what is there goes on. Idempotent.

    durability: as of `RunLimits`.
    Raises UnsafeServer, StreamMismatch, BusError, OSError.
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
    try:
        bundle = await asyncio.to_thread(packed, pathlib.Path(recipe.model.path))
    except NoBundle as none:
        logger.warning("whoever joins this run needs model.path: %s", none)
    else:
        await bucket.put(names.model_key, await store_payload(bus, names, bundle, limit=0))
    await bucket.put(names.recipe_key, dump(recipe).encode())
