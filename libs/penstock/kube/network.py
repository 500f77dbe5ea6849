"""Who may reach whom, as NetworkPolicies: what the table of methods lets call, and no more. Pure."""

from __future__ import annotations

from typing import Any

from penstock.access import METHODS
from penstock.kube.containers import BULK, CLUSTER, GRPC, HTTP, METRICS, MONITOR, NATS, PAGE
from penstock.kube.objects import labels, object_of

SERVES = {
    "CoordinatorService": ("coordinator",),
    "EnvironmentService": ("environment", "adapters"),
    "AgentService": ("environment", "adapters"),
    "GatewayService": ("gateway",),
    "GenerationService": ("generation", "teacher", "judge"),
    "LearnerService": ("learner",),
    "RewardService": ("environment", "reward_model"),
    "WeightSyncService": ("weight_sync",),
}
"""Which kinds of pods offer a service. Diagnostics are everybody's."""


def network(kinds: list[str], nodes: int) -> list[dict[str, Any]]:
    """Who may reach whom: NATS by everybody of the run, services by those whom the table of methods lets call them,
    nodes of a learner by each other, metrics by whoever scrapes, the page by whoever may come into the namespace."""
    everybody = {"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "penstock"}}}
    closed = object_of(
        "networking.k8s.io/v1", "NetworkPolicy", "closed", spec={"podSelector": {}, "policyTypes": ["Ingress"]}
    )
    servers = {"from": [{"podSelector": {"matchLabels": labels("nats")}}], "ports": [{"port": CLUSTER}]}
    nats = _policy("nats", [{"from": [everybody], "ports": [{"port": NATS}, {"port": MONITOR}]}, servers])
    among = {"from": [{"podSelector": {"matchLabels": labels("learner")}}]}
    beside = {"learner": [among]} if nodes > 1 else {}
    return [closed, nats, *(_policy(kind, [*_ingress(kind, kinds), *beside.get(kind, [])]) for kind in kinds)]


def _policy(kind: str, ingress: list[dict[str, Any]]) -> dict[str, Any]:
    spec = {"podSelector": {"matchLabels": labels(kind)}, "policyTypes": ["Ingress"], "ingress": ingress}
    return object_of("networking.k8s.io/v1", "NetworkPolicy", kind, spec=spec)


def _ingress(kind: str, kinds: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"ports": [{"port": METRICS}]}]
    if kind == "dashboard":
        return [*found, {"ports": [{"port": PAGE}]}]
    if kind == "gateway":  # agents, who run in environments
        players = [{"podSelector": {"matchLabels": labels(each)}} for each in ("environment", "adapters")]
        found.append({"from": players, "ports": [{"port": HTTP}]})
    if kind == "weight_sync":  # whoever may have a ticket for the bulk socket; relays are not among these objects
        may = {
            each
            for m in ("OpenBulk", "OpenPush")
            for each in METHODS[f"penstock.weights.v1.WeightSyncService/{m}"].callers
        }
        fetching = [{"podSelector": {"matchLabels": labels(each)}} for each in kinds if each in may]
        found += [{"from": fetching, "ports": [{"port": BULK}]}] if fetching else []
    callers = [caller for caller in kinds if caller in callers_of(kind)]
    if not callers:
        return found
    pods = [{"podSelector": {"matchLabels": labels(caller)}} for caller in callers]
    return [*found, {"from": pods, "ports": [{"port": GRPC}]}]


def callers_of(kind: str) -> set[str]:
    """The kinds that may call a method of what a kind offers."""
    offered = {service for service, kinds in SERVES.items() if kind in kinds} | {"DiagnosticsService"}
    rules = [rule for method, rule in METHODS.items() if method.partition("/")[0].rpartition(".")[2] in offered]
    return {caller for rule in rules for caller in rule.callers}
