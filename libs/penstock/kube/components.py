"""What a cluster may have beside Kubernetes: kustomize components, used where named.

monitoring     Prometheus' operator
autoscaling    KEDA. Scaling down is draining, so it needs to know nothing of the run: rollouts follow the tasks that
               wait, engines the requests that run
tls            cert-manager: an authority of the namespace's own, and a certificate for each kind (`kube.identities`)
"""

from __future__ import annotations

from typing import Any

from penstock.bus import RunNames
from penstock.kube.containers import MONITOR, Place
from penstock.kube.identities import identities, scraping
from penstock.kube.objects import placed
from penstock.recipes import Recipe

PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"
"""Where KEDA asks; the place of Prometheus' operator."""
KEDA = "keda"
"""The namespace that it is installed in, as its own instructions have it."""
MOST = 16
"""Replicas of a kind."""
BUSY = 0.75
"""Of an engine's `generation.max_running`: above it another one is wanted."""


def components(recipe: Recipe, place: Place) -> dict[str, list[dict[str, Any]]]:
    """By component, its objects."""
    found = {"monitoring": [_monitor(place)], "tls": identities(place)}
    if recipe.generates:
        found["autoscaling"] = [_rollout(recipe, place), _generation(recipe, place), _asking(place)]
    return found


def _object(api: str, what: str, name: str, place: Place, spec: dict[str, Any]) -> dict[str, Any]:
    return placed({"apiVersion": api, "kind": what, "metadata": {"name": name}, "spec": spec}, place)


def _monitor(place: Place) -> dict[str, Any]:
    selector = {"matchLabels": {"app.kubernetes.io/part-of": "penstock"}}
    endpoint = {"port": "metrics", "interval": "10s", **(scraping() if place.tls else {})}
    spec = {"selector": selector, "podMetricsEndpoints": [endpoint]}
    return _object("monitoring.coreos.com/v1", "PodMonitor", "penstock", place, spec)


def _scaled(name: str, place: Place, least: int, trigger: dict[str, Any]) -> dict[str, Any]:
    spec = {
        "scaleTargetRef": {"name": name},
        "minReplicaCount": least,
        "maxReplicaCount": MOST,
        "cooldownPeriod": 120,
        "triggers": [trigger],
    }
    return _object("keda.sh/v1alpha1", "ScaledObject", name, place, spec)


def _rollout(recipe: Recipe, place: Place) -> dict[str, Any]:
    """One for each so many groups that wait to be played."""
    names = RunNames(recipe.run)
    lag = {
        "natsServerMonitoringEndpoint": f"nats.{place.namespace}.svc:{MONITOR}",
        "account": "$G",
        "stream": names.tasks,
        "consumer": names.consumer("train"),
        "lagThreshold": str(recipe.rollout.groups_per_worker),
    }
    return _scaled("rollout", place, recipe.rollout.workers, {"type": "nats-jetstream", "metadata": lag})


def _generation(recipe: Recipe, place: Place) -> dict[str, Any]:
    """One for each so many requests in engines."""
    asked = {
        "serverAddress": PROMETHEUS,
        "query": f'sum(rl_generation_running{{namespace="{place.namespace}"}})',
        "threshold": str(max(1, round(BUSY * recipe.generation.max_running))),
    }
    return _scaled("generation", place, recipe.generation.replicas, {"type": "prometheus", "metadata": asked})


def _asking(place: Place) -> dict[str, Any]:
    """Lets KEDA, which is in a namespace of its own, ask NATS what waits."""
    caller = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": KEDA}}}
    spec = {
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "nats"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [caller], "ports": [{"port": MONITOR}]}],
    }
    return _object("networking.k8s.io/v1", "NetworkPolicy", "autoscaling", place, spec)
