"""The table of methods: who may call each, how large its request may be, and how much of a server one kind may take.

Invariant (test names): every method of every service of the protos has a row, and no row is without its method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.access.kinds import Kind

KIB, MIB = 1 << 10, 1 << 20
LARGEST = 32 * MIB
"""Bytes of the largest message of any method: gRPC itself takes no larger one."""


@dataclass(frozen=True)
class Rule:
    """callers: who may call; bytes: of the largest request, or of each one where they are a stream."""

    callers: frozenset[Kind]
    bytes: int


@dataclass(frozen=True)
class Quota:
    """What one kind may take of one server. at_once: calls in progress; per_second: calls that begin."""

    at_once: int
    per_second: float


def _rule(*callers: Kind, bytes: int = 64 * KIB) -> Rule:
    return Rule(frozenset(callers), bytes)


_COORDINATOR = "penstock.coordinator.v1.CoordinatorService/"
_DIAGNOSTICS = "penstock.diagnostics.v1.DiagnosticsService/"
_ENVIRONMENT = "penstock.environment.v1.EnvironmentService/"
_AGENT = "penstock.environment.v1.AgentService/"
_GATEWAY = "penstock.gateway.v1.GatewayService/"
_GENERATION = "penstock.generation.v1.GenerationService/"
_LEARNER = "penstock.learner.v1.LearnerService/"
_REWARD = "penstock.reward.v1.RewardService/"
_WEIGHTS = "penstock.weights.v1.WeightSyncService/"

METHODS: Mapping[str, Rule] = {
    f"{_COORDINATOR}GetRun": _rule("dashboard", "operator"),
    f"{_COORDINATOR}WatchRun": _rule("dashboard", "operator"),
    f"{_COORDINATOR}ListSteps": _rule("dashboard", "operator"),
    f"{_COORDINATOR}PauseRun": _rule("operator"),
    f"{_COORDINATOR}ResumeRun": _rule("operator"),
    f"{_COORDINATOR}StopRun": _rule("operator"),
    f"{_COORDINATOR}ListSamples": _rule("dashboard", "operator"),
    f"{_COORDINATOR}GetSample": _rule("dashboard", "operator"),
    f"{_COORDINATOR}ExplainStall": _rule("dashboard", "operator"),
    f"{_COORDINATOR}GetLineage": _rule("dashboard", "operator"),
    f"{_COORDINATOR}ListVersions": _rule("dashboard", "operator"),
    f"{_COORDINATOR}DecideVersion": _rule("operator"),
    f"{_DIAGNOSTICS}ListWaits": _rule("coordinator", "operator"),
    f"{_ENVIRONMENT}ListEnvironments": _rule("rollout", "operator"),
    f"{_ENVIRONMENT}Reset": _rule("rollout", "operator", bytes=LARGEST),
    f"{_ENVIRONMENT}Step": _rule("rollout", "operator", bytes=LARGEST),
    f"{_ENVIRONMENT}Close": _rule("rollout", "operator"),
    f"{_AGENT}ListAgents": _rule("rollout", "operator"),
    f"{_AGENT}Run": _rule("rollout", "operator", bytes=LARGEST),
    f"{_GATEWAY}OpenSession": _rule("rollout", bytes=LARGEST),
    f"{_GATEWAY}CloseSession": _rule("rollout"),
    f"{_GENERATION}Generate": _rule("gateway", "rollout", bytes=16 * MIB),
    f"{_GENERATION}ScoreTokens": _rule("coordinator", "rollout", bytes=16 * MIB),
    f"{_GENERATION}GetEngine": _rule("coordinator", "operator"),
    f"{_GENERATION}Drain": _rule("operator"),
    f"{_GENERATION}Resume": _rule("operator"),
    f"{_LEARNER}GetStatus": _rule("coordinator", "operator"),
    f"{_LEARNER}SaveCheckpoint": _rule("operator"),
    f"{_LEARNER}Drain": _rule("coordinator"),
    f"{_LEARNER}GetBatchRecord": _rule("coordinator", "operator"),
    f"{_REWARD}Score": _rule("rollout", "operator", bytes=LARGEST),
    f"{_REWARD}ScoreStream": _rule("rollout", "operator", bytes=LARGEST),
    f"{_REWARD}Describe": _rule("rollout", "operator"),
    f"{_WEIGHTS}BeginVersion": _rule("learner", bytes=LARGEST),
    f"{_WEIGHTS}PushTensors": _rule("learner", bytes=LARGEST),
    f"{_WEIGHTS}OpenPush": _rule("learner"),
    f"{_WEIGHTS}PushDifference": _rule("learner", bytes=LARGEST),
    f"{_WEIGHTS}CommitVersion": _rule("learner"),
    f"{_WEIGHTS}AbortVersion": _rule("learner"),
    f"{_WEIGHTS}WatchVersions": _rule("generation", "relay"),
    f"{_WEIGHTS}GetManifest": _rule("coordinator", "generation", "operator", "relay"),
    f"{_WEIGHTS}FetchTensors": _rule("generation", "operator", "relay"),
    f"{_WEIGHTS}OpenBulk": _rule("generation", "operator", "relay"),
    f"{_WEIGHTS}FetchDifference": _rule("generation", "operator", "relay"),
    f"{_WEIGHTS}ReportApplied": _rule("generation"),
    f"{_WEIGHTS}DecideVersion": _rule("coordinator", "operator"),
    f"{_WEIGHTS}ListVersions": _rule("coordinator", "learner", "operator", "relay"),
    f"{_WEIGHTS}HoldVersions": _rule("coordinator"),
    f"{_WEIGHTS}ReleaseHold": _rule("coordinator"),
}

QUOTAS: Mapping[str, Quota] = {
    "coordinator": Quota(64, 100),
    "rollout": Quota(4000, 4000),
    "generation": Quota(512, 1000),
    "environment": Quota(1, 1),
    "gateway": Quota(4000, 4000),
    "reward_model": Quota(1, 1),
    "learner": Quota(1024, 4000),  # every rank pushes
    "weight_sync": Quota(1, 1),
    "relay": Quota(256, 500),
    "dashboard": Quota(256, 500),
    "operator": Quota(128, 200),
}


def rule_of(method: str) -> Rule | None:
    """The row of a method as gRPC names it, `/package.Service/Method`; None for one that is not ours."""
    return METHODS.get(method.removeprefix("/"))


def service_of(method: str) -> str:
    """`package.Service` of a method as gRPC names it."""
    return method.removeprefix("/").partition("/")[0]
