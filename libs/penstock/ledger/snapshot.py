"""A ledger's state as bytes, so that a restarted service need not fold what was long decided. Pure.

    line 1: SHA-256 of the rest, in hexadecimal      rest: zlib of JSON; messages in it are base64 of their bytes

Invariants (test names): whoever goes on from a snapshot is where one is who folded everything; bytes that were cut,
changed or written by another release are no snapshot.
"""

import base64
import binascii
import dataclasses
import datetime
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from penstock.ledger.state import Fate, Group, Ledger, SampleCounts
from penstock.rules.quarantine import Quarantined
from penstock.trajectory.v1 import trajectory_pb2 as pb

FORMAT = 2
LARGEST = 256 << 20
"""Bytes of the JSON: more is refused before it is unpacked."""
QUARANTINED_KEPT = 100
M = TypeVar("M", bound=Message)
_PLAIN = (
    "sequence",
    "step",
    "forgotten",
    "next_number",
    "rolled_back",
    "taken_back",
    "refused",
    "failures",
    "draws",
)


class BadSnapshot(ValueError):
    """The bytes are no snapshot of this release."""


class Fold(Protocol):
    """Somebody who folds the ledger too, and whose state goes into the same snapshot. The state is JSON."""

    def state(self) -> Any:
        """What is known so far."""
        ...

    def restore(self, state: Any) -> None:
        """Takes up what `state` gave. Raises KeyError, TypeError or ValueError for anything else."""
        ...


def dump(ledger: Ledger, folds: Mapping[str, Fold]) -> bytes:
    """The state of the ledger and of those who fold it, by name."""
    said: dict[str, Any] = {name: getattr(ledger, name) for name in _PLAIN}
    said |= {
        "format": FORMAT,
        "began": ledger.began.isoformat() if ledger.began else None,
        "samples": dataclasses.asdict(ledger.samples),
        "rewards": [[source, row, values] for (source, row), values in ledger.rewards.items()],
        "groups": [_group(g) for g in ledger.groups.values()],
        "quarantined": [dataclasses.asdict(q) for q in list(ledger.quarantine.listed)[-QUARANTINED_KEPT:]],
        "quarantine": dict(ledger.quarantine.counts),
        "folds": {name: fold.state() for name, fold in folds.items()},
    }
    for name in ("batches", "reports", "evaluations", "decisions"):
        said[name] = _texts(getattr(ledger, name).values())
    said["recipes"] = _texts(ledger.recipes)
    packed = zlib.compress(json.dumps(said).encode(), 6)
    return hashlib.sha256(packed).hexdigest().encode() + b"\n" + packed


def load(raw: bytes, folds: Mapping[str, Fold] | None = None) -> Ledger:
    """The ledger of a snapshot; `folds` take up theirs. Raises BadSnapshot, and then they are as they were."""
    said, before = _said(raw), {name: fold.state() for name, fold in (folds or {}).items()}
    try:
        ledger, states = _ledger(said), said["folds"]
        if folds and set(states) != set(folds):
            raise BadSnapshot(f"it is of {', '.join(sorted(states)) or 'nobody'}, not of {', '.join(sorted(folds))}")
        for name, fold in (folds or {}).items():
            fold.restore(states[name])
    except (KeyError, TypeError, ValueError, DecodeError, AttributeError) as error:
        for name, state in before.items():
            (folds or {})[name].restore(state)
        raise BadSnapshot(f"its content is not what this release writes: {error!r}") from error
    return ledger


def _said(raw: bytes) -> dict[str, Any]:
    digest, _, packed = raw.partition(b"\n")
    if hashlib.sha256(packed).hexdigest().encode() != digest:
        raise BadSnapshot("its bytes are not those that were written")
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(packed, LARGEST)
        said = json.loads(text) if not unpacking.unconsumed_tail else None
    except (zlib.error, ValueError) as error:
        raise BadSnapshot(f"it cannot be read: {error}") from error
    if unpacking.unconsumed_tail:
        raise BadSnapshot(f"it is larger than {LARGEST} bytes")
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise BadSnapshot(f"it is not of format {FORMAT}")
    return said


def _ledger(said: dict[str, Any]) -> Ledger:
    ledger = Ledger()
    for name in _PLAIN:
        if type(said[name]) is not type(getattr(ledger, name)):
            raise TypeError(f"{name} is {said[name]!r:.80}")
        setattr(ledger, name, said[name])
    ledger.began = datetime.datetime.fromisoformat(said["began"]) if said["began"] else None
    ledger.samples = SampleCounts(**said["samples"])
    ledger.rewards = {(source, row): values for source, row, values in said["rewards"]}
    ledger.groups = {g.name: g for g in (_group_of(each) for each in said["groups"])}
    ledger.in_flight = {g.name: g for g in ledger.groups.values() if g.fate is Fate.IN_FLIGHT}
    for group in ledger.groups.values():
        if group.fate is Fate.FAILED and group.step is not None:
            ledger.failed.setdefault(group.step, []).append(group)
    ledger.quarantine.listed.extend(Quarantined(**each) for each in said["quarantined"])
    ledger.quarantine.counts = Counter(said["quarantine"])
    ledger.batches = {r.step: r for r in _messages(pb.BatchRecord, said["batches"])}
    ledger.reports = {r.step: r for r in _messages(pb.StepReport, said["reports"])}
    ledger.evaluations = {r.step: r for r in _messages(pb.EvaluationReport, said["evaluations"])}
    ledger.recipes = _messages(pb.RecipeRecord, said["recipes"])
    ledger.decisions = {d.step: d for d in _messages(pb.VersionDecision, said["decisions"])}
    return ledger


def _group(group: Group) -> dict[str, Any]:
    said = {f.name: getattr(group, f.name) for f in dataclasses.fields(group)}
    (admitted,) = _texts([group.admitted])
    return said | {"admitted": admitted, "admitted_at": group.admitted_at.isoformat(), "fate": group.fate.value}


def _group_of(said: dict[str, Any]) -> Group:
    (admitted,) = _messages(pb.Admitted, [said["admitted"]])
    at, fate = datetime.datetime.fromisoformat(said["admitted_at"]), Fate(said["fate"])
    return Group(**(said | {"admitted": admitted, "admitted_at": at, "fate": fate}))


def _texts(messages: Iterable[Message]) -> list[str]:
    return [base64.b64encode(m.SerializeToString(deterministic=True)).decode() for m in messages]


def _messages(kind: type[M], texts: Iterable[str]) -> list[M]:
    try:
        return [kind.FromString(base64.b64decode(text, validate=True)) for text in texts]
    except binascii.Error as error:
        raise ValueError(str(error)) from error
