"""The names of a run's JetStream objects and subjects, checked before they reach the server, and what a subject says.

A name is a NATS token: no dots, wildcards or spaces, or one run could write into another's subjects.

    penstock.<run>.task.<train|eval>.<group>          penstock.<run>.ledger.group.<group>
    penstock.<run>.log.<group>.<index>                penstock.<run>.ledger.<batch|step|eval|version>.<step>
    penstock.<run>.blob.<digest>.<piece>              $KV.RUN_<run>.<key>
                                                      $KV.RUN_<run>.member.<kind>.<instance>

Invariant (test name): what is built is parsed back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

TaskKind = Literal["train", "eval"]
LedgerKind = Literal["group", "batch", "step", "eval", "recipe", "version"]
Family = Literal["task", "log", "ledger", "blob"]
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LOG = re.compile(rf"penstock\.{_TOKEN.pattern}\.log\.({_TOKEN.pattern})\.(0|[1-9][0-9]*)")
_TASK_KINDS: tuple[TaskKind, ...] = get_args(TaskKind)
_LEDGER_KINDS: tuple[LedgerKind, ...] = get_args(LedgerKind)


def token(value: str | int, what: str) -> str:
    """Checks that `value` can stand between two dots of a subject.

    Raises:
        ValueError: it has other characters than letters, digits, `_` and `-`, or is longer than 64.
    """
    text = str(value)
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{what} {text!r}: use 1 to 64 letters, digits, '_' and '-', starting with a letter or digit")
    return text


def log_key(subject: str) -> tuple[str, int]:
    """(group, index) of a sample's subject. Raises ValueError for another subject."""
    found = _LOG.fullmatch(subject)
    if found is None:
        raise ValueError(f"{subject!r} is no subject of a log")
    return found[1], int(found[2])


def task_key(subject: str) -> tuple[TaskKind, str]:
    """Kind and group of a task's subject. Raises ValueError for another subject."""
    parts = subject.split(".")
    if len(parts) == 5 and parts[0] == "penstock" and parts[2] == "task":
        for kind in _TASK_KINDS:
            if kind == parts[3]:
                return kind, token(parts[4], "group")
    raise ValueError(f"{subject!r} is no subject of a task")


def ledger_key(subject: str) -> tuple[LedgerKind, str]:
    """What a ledger entry is about: a group by name, batch, step, evaluation or version by step, a recipe by number.

    Raises ValueError for another subject.
    """
    parts = subject.split(".")
    if len(parts) == 5 and parts[0] == "penstock" and parts[2] == "ledger":
        for kind in _LEDGER_KINDS:
            if kind == parts[3]:
                return kind, parts[4]
    raise ValueError(f"{subject!r} is no subject of a ledger")


def family(subject: str) -> str:
    """The part of a subject that all subjects of one stream share (or less: a key of a bucket is its own family)."""
    return ".".join(subject.split(".")[:3])


ENDS = ("done", "stopped", "failed")
"""How a run may be over, as its bucket says it."""


@dataclass(frozen=True)
class RunNames:
    """Names of everything that run `run` owns on the bus.

    Raises:
        ValueError: `run` is not a NATS token (see `token`).
    """

    run: str

    def __post_init__(self) -> None:
        token(self.run, "run name")

    @property
    def tasks(self) -> str:
        """Stream of group tasks."""
        return f"TASKS_{self.run}"

    @property
    def log(self) -> str:
        """Stream of trajectories."""
        return f"LOG_{self.run}"

    @property
    def ledger(self) -> str:
        """Stream of decisions."""
        return f"LEDGER_{self.run}"

    @property
    def bucket(self) -> str:
        """Key-value bucket: the recipe, the members, whether the run is paused, to end or over, the newest incarnation
        of the learner, the ledger's snapshot."""
        return f"RUN_{self.run}"

    @property
    def paused_key(self) -> str:
        """Key of the bucket: b"1", and why, while the run is paused; in a second line for which fact it was last."""
        return "paused"

    @property
    def stopping_key(self) -> str:
        """Key of the bucket: why the run is to end, as UTF-8; empty or absent if it is not."""
        return "stopping"

    @property
    def snapshot_key(self) -> str:
        """Key of the bucket: the ledger as it was folded a while ago."""
        return "ledger"

    @property
    def bucket_stream(self) -> str:
        """The stream behind the bucket, as NATS names it."""
        return f"KV_{self.bucket}"

    @property
    def bucket_subjects(self) -> str:
        """Matches all keys of the bucket."""
        return f"$KV.{self.bucket}.>"

    @property
    def recipe_key(self) -> str:
        """Key of the bucket: the resolved recipe, as YAML."""
        return "recipe"

    @property
    def model_key(self) -> str:
        """Key of the bucket: configuration and tokenizer of the model, as the envelope of a payload."""
        return "model"

    @property
    def over_key(self) -> str:
        """Key of the bucket: how the run ended ("done", "stopped", "failed"), empty while it has not."""
        return "over"

    @property
    def learner_group_key(self) -> str:
        """Key of the bucket: what node 0 of a learner of several nodes says of them all."""
        return "learners.group"

    def learner_node_key(self, rank: int) -> str:
        """Key of the bucket: what a node of the learner says of itself."""
        return f"learners.node.{rank}"

    def wanted_key(self, host: str) -> str:
        """Key of the bucket: how many processes of each kind the supervisor of a host keeps, as JSON."""
        return f"wanted.{token(host, 'host')}"

    def member_key(self, kind: str, instance: str) -> str:
        """Key of the bucket: what a process says of itself."""
        return f"member.{token(kind, 'kind')}.{token(instance, 'instance')}"

    @property
    def member_subjects(self) -> str:
        """Matches what all members say of themselves."""
        return f"$KV.{self.bucket}.member.*.*"

    def key_subject(self, key: str) -> str:
        """Where a key of the bucket is written; a key is tokens with dots between them."""
        return f"$KV.{self.bucket}." + ".".join(token(part, "key") for part in key.split("."))

    @property
    def blobs(self) -> str:
        """Stream of the pieces of payloads above the message limit."""
        return f"BLOB_{self.run}"

    def subjects(self, family: Family) -> str:
        """Matches everything of one stream."""
        return f"penstock.{self.run}.{family}.>"

    def blob_subject(self, digest: str, piece: int) -> str:
        """Where a piece (from 0) of a payload is published."""
        return f"penstock.{self.run}.blob.{token(digest, 'digest')}.{piece}"

    def consumer(self, kind: TaskKind) -> str:
        """Durable consumer that the rollout workers share."""
        return f"rollout-{kind}"

    def task_subject(self, kind: TaskKind, group: str | int) -> str:
        """Where the task of one group is published."""
        return f"penstock.{self.run}.task.{kind}.{token(group, 'group')}"

    def task_filter(self, kind: TaskKind) -> str:
        """Matches the tasks of one kind."""
        return f"penstock.{self.run}.task.{kind}.*"

    def log_subject(self, group: str | int, index: int) -> str:
        """Where sample `index` (from 0) of a group is published."""
        if index < 0:
            raise ValueError(f"sample index {index} is negative")
        return f"penstock.{self.run}.log.{token(group, 'group')}.{index}"

    def ledger_group_subject(self, group: str | int) -> str:
        """Where the events of one group are appended."""
        return f"penstock.{self.run}.ledger.group.{token(group, 'group')}"

    def ledger_batch_subject(self, step: int) -> str:
        """Where the batch of one optimizer step is recorded, before the step."""
        return self._ledger("batch", step)

    def ledger_step_subject(self, step: int) -> str:
        """Where the result of one optimizer step is recorded."""
        return self._ledger("step", step)

    def ledger_eval_subject(self, step: int) -> str:
        """Where the result of the evaluation after a step is recorded."""
        return self._ledger("eval", step)

    def ledger_recipe_subject(self, number: int) -> str:
        """Where the run's recipe is recorded, each time that it goes on with another one."""
        return self._ledger("recipe", number)

    def ledger_version_subject(self, step: int) -> str:
        """Where what was decided of a version is recorded."""
        return self._ledger("version", step)

    def _ledger(self, kind: str, number: int) -> str:
        if number < 0:
            raise ValueError(f"{kind} {number} is negative")
        return f"penstock.{self.run}.ledger.{kind}.{number}"
