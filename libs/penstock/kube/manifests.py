"""The objects of a run in Kubernetes. Pure.

    nats, weight-sync, judge, reward-model    StatefulSet     create, learner    Job
    everything else                           Deployment

A Deployment's replicas are the recipe's; `kubectl scale` and autoscalers change them, and nothing else need know.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from penstock.access import METHODS
from penstock.bus import User
from penstock.kube.containers import (
    BULK,
    DRAIN_SECONDS,
    GRPC,
    HTTP,
    METRICS,
    MONITOR,
    NATS,
    PAGE,
    USER,
    Place,
    container,
    create_container,
    login_of,
    nats_config,
    nats_container,
    object_name,
    store_bytes,
    volumes,
)
from penstock.recipes import Recipe, dump
from penstock.supervisor.devices import wanted
from penstock.supervisor.plan import instances, kind_of

__all__ = ["Place", "manifests"]
SINGLE = ("coordinator", "dashboard")
NUMBERED = ("judge", "reward_model")
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


def manifests(
    recipe: Recipe, place: Place, page_key: str, users: Mapping[str, User]
) -> dict[str, list[dict[str, Any]]]:
    """By file, the objects of the run. page_key: what opens its page; users: whom its NATS lets in, by kind."""
    counts = Counter(kind_of(name) for name in instances(recipe))
    found = {"run.yaml": [_recipe(recipe), _create(place)], "nats.yaml": _nats(recipe, place, users)}
    for kind, count in counts.items():
        found[f"{object_name(kind)}.yaml"] = [
            _workload(recipe, kind, count, place),
            *_beside(kind, count, shared=recipe.learner.nodes > 1),
        ]
    found["network.yaml"] = _network(sorted(counts), nodes=recipe.learner.nodes)
    logins = [_login(kind, user) for kind, user in users.items()]
    found["secrets.yaml"] = [_object("v1", "Secret", "page", stringData={"page.key": page_key}), *logins]
    return {
        file: [{**each, "metadata": {**each["metadata"], "namespace": place.namespace}} for each in objects]
        for file, objects in found.items()
    }


def _labels(kind: str) -> dict[str, str]:
    return {"app.kubernetes.io/part-of": "penstock", "app.kubernetes.io/name": object_name(kind)}


def _object(api: str, what: str, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": api,
        "kind": what,
        "metadata": {"name": object_name(kind), "labels": _labels(kind)},
        **more,
    }


def _pod(kind: str, containers: list[dict[str, Any]], held: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    spec = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": DRAIN_SECONDS + 15,
        "containers": containers,
        "volumes": held,
        **more,
    }
    return {"metadata": {"labels": _labels(kind)}, "spec": spec}


def _workload(recipe: Recipe, kind: str, count: int, place: Place) -> dict[str, Any]:
    names = [name for name in instances(recipe) if kind_of(name) == kind]
    asked = max(wanted(recipe, name)[0] for name in names) if place.accelerator == "cuda" else 0
    made = container(recipe, kind, place, asked, numbered=kind in NUMBERED)
    held = volumes(kind, place)
    if kind == "learner":
        pod = _pod(kind, [made], _kept(held, "learner"), restartPolicy="OnFailure")
        nodes = recipe.learner.nodes
        indexed = {"completions": nodes, "parallelism": nodes, "completionMode": "Indexed"} if nodes > 1 else {}
        return _object("batch/v1", "Job", kind, spec={"backoffLimit": 20, **indexed, "template": pod})
    selected: dict[str, Any] = {"replicas": count, "selector": {"matchLabels": _labels(kind)}}
    if kind == "weight_sync" or kind in NUMBERED:
        pod = _pod(kind, [made], held)
        return _object(
            "apps/v1", "StatefulSet", kind, spec={**selected, "serviceName": object_name(kind), "template": pod}
        )
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": _labels(kind)},
    }
    more = {"topologySpreadConstraints": [spread]} if kind not in SINGLE else {}
    pod = _pod(kind, [made], _kept(held, "coordinator") if kind == "coordinator" else held, **more)
    strategy = {"strategy": {"type": "Recreate"}} if kind in SINGLE else {}
    return _object("apps/v1", "Deployment", kind, spec={**selected, **strategy, "template": pod})


def _kept(held: list[dict[str, Any]], claim: str) -> list[dict[str, Any]]:
    """With a folder that outlives the pod."""
    lasting = {"name": "folder", "persistentVolumeClaim": {"claimName": claim}}
    return [lasting if each["name"] == "folder" else each for each in held]


def _beside(kind: str, count: int, shared: bool) -> list[dict[str, Any]]:
    """What a kind needs beside its pods. shared: whether the learner's pods are on several nodes."""
    selector = _labels(kind)
    found: list[dict[str, Any]] = []
    if kind in ("learner", "coordinator"):
        learner = kind == "learner"
        found.append(_claim(kind, "50Gi" if learner else "10Gi", "Many" if learner and shared else "Once"))
    if kind == "dashboard":
        ports = [{"name": "page", "port": PAGE, "targetPort": "page"}]
        found.append(_object("v1", "Service", kind, spec={"selector": selector, "ports": ports}))
    if kind == "weight_sync" or kind in NUMBERED:
        named = {"grpc": GRPC, **({"bulk": BULK} if kind == "weight_sync" else {})}
        ports = [{"name": name, "port": port, "targetPort": name} for name, port in named.items()]
        found.append(_object("v1", "Service", kind, spec={"clusterIP": "None", "selector": selector, "ports": ports}))
    if count > 1:
        spec = {"maxUnavailable": 1, "selector": {"matchLabels": selector}}
        found.append(_object("policy/v1", "PodDisruptionBudget", kind, spec=spec))
    return found


def _claim(name: str, size: str, writers: str = "Once") -> dict[str, Any]:
    spec = {"accessModes": [f"ReadWrite{writers}"], "resources": {"requests": {"storage": size}}}
    return _object("v1", "PersistentVolumeClaim", name, spec=spec)


def _recipe(recipe: Recipe) -> dict[str, Any]:
    return _object("v1", "ConfigMap", "recipe", data={"recipe.yaml": dump(recipe)})


def _create(place: Place) -> dict[str, Any]:
    held = [each for each in volumes("operator", place) if each["name"] != "folder"]
    held.append({"name": "recipe", "configMap": {"name": "recipe"}})
    pod = _pod("create", [create_container(place)], held, restartPolicy="OnFailure")
    return _object("batch/v1", "Job", "create", spec={"backoffLimit": 20, "template": pod})


def _login(kind: str, user: User) -> dict[str, Any]:
    """What a kind shows to NATS."""
    return _object("v1", "Secret", login_of(kind), stringData={"login": f"{user.login.user}:{user.login.secret}"})


def _nats(recipe: Recipe, place: Place, users: Mapping[str, User]) -> list[dict[str, Any]]:
    config = _object("v1", "Secret", "nats", stringData={"nats.conf": nats_config(recipe, users)})
    source = {"secret": {"secretName": "nats", "defaultMode": 0o440}}
    claim = _claim("store", f"{-(-store_bytes(recipe) // (1 << 30)) + 2}Gi")
    pod = _pod("nats", [nats_container(place)], [{"name": "config", **source}])
    labels = _labels("nats")
    spec = {
        "replicas": 1,
        "serviceName": "nats",
        "selector": {"matchLabels": labels},
        "template": pod,
        "volumeClaimTemplates": [{"metadata": {"name": "store"}, "spec": claim["spec"]}],
    }
    ports = [{"name": "nats", "port": NATS}, {"name": "monitor", "port": MONITOR}]
    service = _object("v1", "Service", "nats", spec={"clusterIP": "None", "selector": labels, "ports": ports})
    return [config, service, _object("apps/v1", "StatefulSet", "nats", spec=spec)]


def _network(kinds: list[str], nodes: int) -> list[dict[str, Any]]:
    """Who may reach whom: NATS by everybody of the run, services by those whom the table of methods lets call them,
    nodes of a learner by each other, metrics by whoever scrapes, the page by whoever may come into the namespace."""
    everybody = {"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "penstock"}}}
    closed = _object(
        "networking.k8s.io/v1", "NetworkPolicy", "closed", spec={"podSelector": {}, "policyTypes": ["Ingress"]}
    )
    nats = _policy("nats", [{"from": [everybody], "ports": [{"port": NATS}, {"port": MONITOR}]}])
    among = {"from": [{"podSelector": {"matchLabels": _labels("learner")}}]}
    beside = {"learner": [among]} if nodes > 1 else {}
    return [closed, nats, *(_policy(kind, [*_ingress(kind, kinds), *beside.get(kind, [])]) for kind in kinds)]


def _policy(kind: str, ingress: list[dict[str, Any]]) -> dict[str, Any]:
    spec = {"podSelector": {"matchLabels": _labels(kind)}, "policyTypes": ["Ingress"], "ingress": ingress}
    return _object("networking.k8s.io/v1", "NetworkPolicy", kind, spec=spec)


def _ingress(kind: str, kinds: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"ports": [{"port": METRICS}]}]
    if kind == "dashboard":
        return [*found, {"ports": [{"port": PAGE}]}]
    if kind == "gateway":  # agents, who run in environments
        players = [{"podSelector": {"matchLabels": _labels(each)}} for each in ("environment", "adapters")]
        found.append({"from": players, "ports": [{"port": HTTP}]})
    if kind == "weight_sync":  # whoever may have a ticket for the bulk socket; relays are not among these objects
        may = {
            each
            for m in ("OpenBulk", "OpenPush")
            for each in METHODS[f"penstock.weights.v1.WeightSyncService/{m}"].callers
        }
        fetching = [{"podSelector": {"matchLabels": _labels(each)}} for each in kinds if each in may]
        found += [{"from": fetching, "ports": [{"port": BULK}]}] if fetching else []
    callers = [caller for caller in kinds if caller in callers_of(kind)]
    if not callers:
        return found
    pods = [{"podSelector": {"matchLabels": _labels(caller)}} for caller in callers]
    return [*found, {"from": pods, "ports": [{"port": GRPC}]}]


def callers_of(kind: str) -> set[str]:
    """The kinds that may call a method of what a kind offers."""
    offered = {service for service, kinds in SERVES.items() if kind in kinds} | {"DiagnosticsService"}
    rules = [rule for method, rule in METHODS.items() if method.partition("/")[0].rpartition(".")[2] in offered]
    return {caller for rule in rules for caller in rule.callers}


def shown(objects: list[dict[str, Any]]) -> str:
    """As a file has them."""
    plain = json.loads(json.dumps(objects))
    return "---\n".join(yaml.safe_dump(each, sort_keys=False, width=160) for each in plain)
