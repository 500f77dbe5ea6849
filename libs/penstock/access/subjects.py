"""The table of NATS: what each kind may publish and hear in a run. A kind that is not in it has no user there.

Nobody but the operator makes, changes or removes streams. Whoever only takes part makes no consumer either, and asks
for no message as it is stored: either could be told to deliver what the asker has published into the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from penstock.access.kinds import Kind
from penstock.names import RunNames, TaskKind

API = "$JS.API"
PARTS: Mapping[str, tuple[str, ...]] = {
    "generation": ("generation", "teacher", "judge"),
    "learner": ("learner", "learner_node"),
    "environment": ("environment", "adapters"),
}
"""The parts that a kind's processes play in a run, where those are not the kind alone."""


@dataclass(frozen=True)
class Subjects:
    """What one user may publish and subscribe to, as NATS writes it."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


EVERYTHING = Subjects((">",), (">",))


def inbox_of(kind: str) -> str:
    """Where a kind's answers come: no other kind hears them."""
    return f"_INBOX_{kind}"


def subjects_of(names: RunNames) -> dict[Kind, Subjects]:
    """The table for one run."""
    n = names
    ledger = f"penstock.{n.run}.ledger"
    samples = (n.subjects("log"), n.subjects("blob"))
    keys = tuple(n.key_subject(key) for key in (n.paused_key, n.stopping_key, n.snapshot_key, n.over_key))
    taking_part: dict[Kind, Subjects] = {
        kind: _user(names, kind, (), looks=(), reads=(), more=[])
        for kind in ("generation", "environment", "gateway", "reward_model", "weight_sync", "relay", "dashboard")
    }
    return {
        "operator": EVERYTHING,
        "coordinator": _user(
            names,
            "coordinator",
            (
                n.subjects("task"),
                *samples,
                *(f"{ledger}.{what}.*" for what in ("group", "eval", "recipe", "version")),
                *keys,
            ),
            looks=(n.tasks, n.log, n.ledger, n.blobs),
            reads=(n.log, n.ledger),
            more=[f"{API}.CONSUMER.INFO.{n.tasks}.{n.consumer(kind)}" for kind in get_args(TaskKind)],
        ),
        "learner": _user(
            names,
            "learner",
            (
                *(f"{ledger}.{what}.*" for what in ("group", "batch", "step", "eval")),
                n.key_subject("learner_epoch"),
                f"$KV.{n.bucket}.learners.>",
            ),
            looks=(n.log, n.ledger, n.blobs),
            reads=(n.log, n.ledger),
            more=[f"{API}.STREAM.PURGE.{n.log}"],
        ),
        "rollout": _user(
            names,
            "rollout",
            samples,
            looks=(n.log, n.blobs),
            reads=(),
            more=[
                f"$JS.ACK.{n.tasks}.>",
                *(
                    f"{API}.CONSUMER.{what}.{n.tasks}.{n.consumer(kind)}"
                    for what in ("INFO", "MSG.NEXT")
                    for kind in get_args(TaskKind)
                ),
            ],
        ),
        **taking_part,
    }


def _user(
    names: RunNames, kind: Kind, writes: Iterable[str], *, looks: Iterable[str], reads: Iterable[str], more: list[str]
) -> Subjects:
    """writes: subjects beside what it says of itself; looks: streams, beside the bucket, whose state and single
    messages it asks for; reads: streams it follows."""
    itself = [f"$KV.{names.bucket}.member.{part}.*" for part in PARTS.get(kind, (kind,))]
    asked = (*looks, names.bucket_stream)
    looking = [f"{API}.{what}.{stream}" for stream in asked for what in ("STREAM.INFO", "STREAM.MSG.GET")]
    following = [
        f"{API}.CONSUMER.{what}"
        for stream in reads
        for what in (f"CREATE.{stream}", f"CREATE.{stream}.>", f"MSG.NEXT.{stream}.*")
    ]
    heard = (names.member_subjects, names.key_subject(names.over_key))
    return Subjects(
        (*writes, *itself, f"{API}.STREAM.NAMES", *looking, *following, *more), (f"{inbox_of(kind)}.>", *heard)
    )
