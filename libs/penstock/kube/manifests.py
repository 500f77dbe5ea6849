"""The objects of a run in Kubernetes. Pure.

    nats, weight-sync, judge, reward-model    StatefulSet     create, learner    Job
    everything else                           Deployment

A Deployment's replicas are the recipe's; `kubectl scale` and autoscalers change them, and nothing else need know. What
hangs on the recipe is written as an overlay over what does not (`penstock.kube.overlay`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from penstock.bus import User
from penstock.kube.containers import (
    BULK,
    CLUSTER,
    DRAIN_SECONDS,
    GRPC,
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
    pair_volume,
    store_bytes,
    volumes,
)
from penstock.kube.network import network
from penstock.kube.objects import labels, object_of, placed
from penstock.recipes import Recipe, dump
from penstock.supervisor.devices import wanted
from penstock.supervisor.plan import instances, kind_of
from penstock.supervisor.scaling import SCALED

__all__ = ["Place", "manifests"]
SINGLE = ("coordinator", "dashboard")
NUMBERED = ("judge", "reward_model")
RUN = "RUN"
"""The variable that has the run's name, which the ConfigMap `recipe` says."""


def manifests(
    recipe: Recipe, place: Place, page_key: str, users: Mapping[str, User]
) -> dict[str, list[dict[str, Any]]]:
    """By file, the objects of the run. page_key: what opens its page; users: whom its NATS lets in, by kind."""
    counts = Counter(kind_of(name) for name in instances(recipe))
    found = {"run.yaml": [_recipe(recipe), _create(place)], "nats.yaml": _nats(recipe, place, users)}
    for kind, count in counts.items():
        found[f"{object_name(kind)}.yaml"] = [
            _workload(recipe, kind, count, place),
            *_beside(kind, shared=recipe.learner.nodes > 1),
        ]
    found["network.yaml"] = network(sorted(counts), nodes=recipe.learner.nodes)
    logins = [_login(kind, user) for kind, user in users.items()]
    found["secrets.yaml"] = [object_of("v1", "Secret", "page", stringData={"page.key": page_key}), *logins]
    return {file: [placed(each, place) for each in objects] for file, objects in found.items()}


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
    return {"metadata": {"labels": labels(kind)}, "spec": spec}


def _workload(recipe: Recipe, kind: str, count: int, place: Place) -> dict[str, Any]:
    names = [name for name in instances(recipe) if kind_of(name) == kind]
    asked = max(wanted(recipe, name)[0] for name in names) if place.accelerator == "cuda" else 0
    own = container(recipe, kind, place, asked, numbered=kind in NUMBERED, run=f"$({RUN})")
    told = {"name": RUN, "valueFrom": {"configMapKeyRef": {"name": "recipe", "key": "run"}}}
    own = {**own, "env": [told, *own["env"]]}
    held = volumes(kind, place)
    if kind == "learner":
        pod = _pod(kind, [own], _kept(held, "learner"), restartPolicy="OnFailure")
        nodes = recipe.learner.nodes
        indexed = {"completions": nodes, "parallelism": nodes, "completionMode": "Indexed"} if nodes > 1 else {}
        return object_of("batch/v1", "Job", kind, spec={"backoffLimit": 20, **indexed, "template": pod})
    selected: dict[str, Any] = {"replicas": count, "selector": {"matchLabels": labels(kind)}}
    if kind == "weight_sync" or kind in NUMBERED:
        pod = _pod(kind, [own], held)
        return object_of(
            "apps/v1", "StatefulSet", kind, spec={**selected, "serviceName": object_name(kind), "template": pod}
        )
    more = {"topologySpreadConstraints": [_spread(kind, "ScheduleAnyway")]} if kind not in SINGLE else {}
    pod = _pod(kind, [own], _kept(held, "coordinator") if kind == "coordinator" else held, **more)
    strategy = {"strategy": {"type": "Recreate"}} if kind in SINGLE else {}
    return object_of("apps/v1", "Deployment", kind, spec={**selected, **strategy, "template": pod})


def _spread(kind: str, otherwise: str) -> dict[str, Any]:
    """Over hosts. otherwise: what becomes of a pod for which there is none."""
    found = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": otherwise}
    return {**found, "labelSelector": {"matchLabels": labels(kind)}}


def _kept(held: list[dict[str, Any]], claim: str) -> list[dict[str, Any]]:
    """With a folder that outlives the pod."""
    lasting = {"name": "folder", "persistentVolumeClaim": {"claimName": claim}}
    return [lasting if each["name"] == "folder" else each for each in held]


def _beside(kind: str, shared: bool) -> list[dict[str, Any]]:
    """What a kind needs beside its pods. shared: whether the learner's pods are on several nodes."""
    selector = labels(kind)
    found: list[dict[str, Any]] = []
    if kind in ("learner", "coordinator"):
        learner = kind == "learner"
        found.append(_claim(kind, "50Gi" if learner else "10Gi", "Many" if learner and shared else "Once"))
    if kind == "dashboard":
        ports = [{"name": "page", "port": PAGE, "targetPort": "page"}]
        found.append(object_of("v1", "Service", kind, spec={"selector": selector, "ports": ports}))
    if kind == "weight_sync" or kind in NUMBERED:
        named = {"grpc": GRPC, **({"bulk": BULK} if kind == "weight_sync" else {})}
        ports = [{"name": name, "port": port, "targetPort": name} for name, port in named.items()]
        found.append(object_of("v1", "Service", kind, spec={"clusterIP": "None", "selector": selector, "ports": ports}))
    if kind in SCALED:
        spec = {"maxUnavailable": 1, "selector": {"matchLabels": selector}}
        found.append(object_of("policy/v1", "PodDisruptionBudget", kind, spec=spec))
    return found


def _claim(name: str, size: str, writers: str = "Once") -> dict[str, Any]:
    spec = {"accessModes": [f"ReadWrite{writers}"], "resources": {"requests": {"storage": size}}}
    return object_of("v1", "PersistentVolumeClaim", name, spec=spec)


def _recipe(recipe: Recipe) -> dict[str, Any]:
    return object_of("v1", "ConfigMap", "recipe", data={"run": recipe.run, "recipe.yaml": dump(recipe)})


def _create(place: Place) -> dict[str, Any]:
    held = [each for each in volumes("operator", place) if each["name"] != "folder"]
    held.append({"name": "recipe", "configMap": {"name": "recipe"}})
    pod = _pod("create", [create_container(place)], held, restartPolicy="OnFailure")
    return object_of("batch/v1", "Job", "create", spec={"backoffLimit": 20, "template": pod})


def _login(kind: str, user: User) -> dict[str, Any]:
    """What a kind shows to NATS."""
    return object_of("v1", "Secret", login_of(kind), stringData={"login": f"{user.login.user}:{user.login.secret}"})


def _nats(recipe: Recipe, place: Place, users: Mapping[str, User]) -> list[dict[str, Any]]:
    """One server, or a cluster of as many as streams have copies."""
    servers, own = recipe.limits.replicas, labels("nats")
    config = object_of("v1", "Secret", "nats", stringData={"nats.conf": nats_config(recipe, users, servers, place.tls)})
    source = {"secret": {"secretName": "nats", "defaultMode": 0o440}}
    claim = _claim("store", f"{-(-store_bytes(recipe) // (1 << 30)) + 2}Gi")
    held = [{"name": "config", **source}, *([pair_volume("nats")] if place.tls else [])]
    apart = {"topologySpreadConstraints": [_spread("nats", "DoNotSchedule")]} if servers > 1 else {}
    pod = _pod("nats", [nats_container(place)], held, **apart)
    spec = {
        "replicas": servers,
        "serviceName": "nats",
        "podManagementPolicy": "Parallel",  # of a cluster none is ready before most are there
        "selector": {"matchLabels": own},
        "template": pod,
        "volumeClaimTemplates": [{"metadata": {"name": "store"}, "spec": claim["spec"]}],
    }
    ports = [
        {"name": name, "port": port} for name, port in (("nats", NATS), ("monitor", MONITOR), ("cluster", CLUSTER))
    ]
    found = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": own, "ports": ports}
    budget = {"maxUnavailable": 1, "selector": {"matchLabels": own}}
    return [
        config,
        object_of("v1", "Service", "nats", spec=found),
        object_of("apps/v1", "StatefulSet", "nats", spec=spec),
        object_of("policy/v1", "PodDisruptionBudget", "nats", spec=budget),
    ]


def shown(objects: list[dict[str, Any]]) -> str:
    """As a file has them."""
    plain = json.loads(json.dumps(objects))
    return "---\n".join(yaml.safe_dump(each, sort_keys=False, width=160) for each in plain)
