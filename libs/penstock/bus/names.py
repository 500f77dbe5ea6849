"""The names of a run's JetStream objects and subjects, in one place, checked before they reach the server.

A name is a NATS token: no dots, wildcards or spaces, or one run could write into another's subjects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

TaskKind = Literal["train", "eval"]
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def token(value: str | int, what: str) -> str:
    """Checks that `value` can stand between two dots of a subject.

    Raises:
        ValueError: it has other characters than letters, digits, `_` and `-`, or is longer than 64.
    """
    text = str(value)
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{what} {text!r}: use 1 to 64 letters, digits, '_' and '-', starting with a letter or digit")
    return text


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
        """Key-value bucket: recipe, status, leases."""
        return f"RUN_{self.run}"

    @property
    def blobs(self) -> str:
        """Object store of payloads above the message limit."""
        return f"BLOB_{self.run}"

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

    def _ledger(self, kind: str, step: int) -> str:
        if step < 0:
            raise ValueError(f"step {step} is negative")
        return f"penstock.{self.run}.ledger.{kind}.{step}"
