"""What a run's checkpoints hold: the policy, and its critic where it has one, as one atomic unit."""

from pathlib import Path
from typing import Any, Protocol

from services.learner.checkpoints.directory import CRITIC
from services.learner.interface.policy import Policy
from services.learner.interface.snapshot import Snapshot


class Saved(Protocol):
    """What is saved and restored; both are collectives (see Policy)."""

    def snapshot(self) -> Snapshot: ...

    def load(self, path: str | Path) -> dict[str, Any]: ...


class ActorCritic:
    """A policy and its critic, which was created `beside` it."""

    def __init__(self, policy: Policy, critic: Policy) -> None:
        self._policy, self._critic = policy, critic

    def snapshot(self) -> Snapshot:
        """Of both."""
        return self._policy.snapshot().beside(CRITIC, self._critic.snapshot())

    def load(self, path: str | Path) -> dict[str, Any]:
        """Restores both; the `extra`. Raises AnotherModel for a checkpoint without a critic."""
        extra = self._policy.load(path)
        self._critic.load(path)
        return extra
