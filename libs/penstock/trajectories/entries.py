"""A sample or a task as a stream has it: read, or refused as a BadEntry before anything of it is used.

The log and the tasks are written by many, and by others than us; whoever reads them reads them through here. An entry
must be what its subject says: of this run, of this group, this member of it and of this kind.

Invariants (test names): what is read back is what was written; no content of one sample is read under another's
subject; whatever is wrong with an entry is a BadEntry.
"""

import json
from collections.abc import Collection

from google.protobuf.message import DecodeError

from penstock.names import RunNames, log_key, task_key
from penstock.rules import bounds
from penstock.rules.protos import violations
from penstock.rules.quarantine import BadEntry
from penstock.trajectories.checks import check_trajectory
from penstock.trajectories.codec import decode
from penstock.trajectory.v1 import trajectory_pb2 as pb

_KINDS: dict[str, pb.TaskKind] = {"train": pb.TASK_KIND_TRAIN, "eval": pb.TASK_KIND_EVAL}
_LETTERS = {"g": pb.TASK_KIND_TRAIN, "e": pb.TASK_KIND_EVAL}


def sample_key(names: RunNames, subject: str) -> tuple[str, int]:
    """(group, index) of a sample's subject. Raises BadEntry for what no sample of this run has."""
    try:
        group, index = log_key(subject)
    except ValueError as error:
        raise BadEntry(str(error)) from error
    if not subject.startswith(f"penstock.{names.run}."):
        raise BadEntry(f"{subject!r} is of another run than {names.run!r}")
    if index >= bounds.MOST_GROUP:
        raise BadEntry(f"{subject!r}: no group has {index + 1} samples")
    if group[0] not in _LETTERS:
        raise BadEntry(f"{subject!r}: {group!r} is no name of a group")
    return group, index


def read_sample(names: RunNames, subject: str, payload: bytes) -> pb.Trajectory:
    """The sample of a log entry, whose claim was checked. Raises BadEntry."""
    group, index = sample_key(names, subject)
    t = decode(payload)
    kind = _LETTERS[group[0]]
    if (t.run, t.group, t.index, t.kind) != (names.run, group, index, kind):
        raise BadEntry(f"{subject!r} holds the sample {t.run}/{t.group}/{t.index} of kind {t.kind}")
    check_trajectory(t)
    return t


def refused(names: RunNames, group: str, index: int, reason: object) -> pb.Trajectory:
    """The end of a sample whose entry is quarantined: FAILED{invalid}."""
    t = pb.Trajectory(run=names.run, group=group, index=index, kind=_LETTERS[group[0]])
    t.outcome.status, t.outcome.failure = pb.Outcome.STATUS_FAILED, pb.Outcome.FAILURE_INVALID
    t.outcome.detail = str(reason)[:2000]
    return t


def read_task(names: RunNames, subject: str, payload: bytes, sources: Collection[str] | None = None) -> pb.GroupTask:
    """The task of a task entry. `sources`: those that the recipe has; None where nobody asks. Raises BadEntry."""
    try:
        kind, group = task_key(subject)
        task = pb.GroupTask.FromString(payload)
    except (ValueError, DecodeError) as error:
        raise BadEntry(f"not a task: {error}") from error
    broken = violations(task)
    if broken:
        raise BadEntry(f"{subject!r}: {broken[0].field}: {broken[0].description}")
    if (task.run, task.group, task.kind) != (names.run, group, _KINDS[kind]) or _LETTERS[group[0]] != task.kind:
        raise BadEntry(f"{subject!r} holds the task {task.run}/{task.group} of kind {task.kind}")
    if task.seed + task.group_size > 2**64 - 1:
        raise BadEntry(f"{subject!r}: seed {task.seed} leaves no seeds for {task.group_size} samples")
    _check_numbers(subject, row=task.row, min_step=task.rollout.min_step, pinned_step=task.rollout.pinned_step)
    _check_work(subject, task, sources)
    return task


def _check_numbers(subject: str, **numbers: int) -> None:
    for name, value in numbers.items():
        most = bounds.MOST_STEP if name.endswith("step") else bounds.MOST_NUMBER
        if value > most:
            raise BadEntry(f"{subject!r}: {name} is {value}, beyond {most}")


def _check_work(subject: str, task: pb.GroupTask, sources: Collection[str] | None) -> None:
    work = task.rollout.task
    if task.HasField("rollout") and sources is not None and work.source not in sources:
        raise BadEntry(f"{subject!r}: source {work.source!r} is not in the recipe, which has {', '.join(sources)}")
    texts = [work.row_json, work.tools_json, task.preference.tools_json]
    for text in [*texts, *(d.tools_json for d in task.demonstration.demonstrations)]:
        try:
            json.loads(text or "{}")
        except (ValueError, RecursionError) as error:
            raise BadEntry(f"{subject!r}: a row or its tools are not JSON: {error}") from error
