"""A recipe's run as one Compose file: the same containers on one host. Pure.

    docker compose -f FOLDER/compose.yaml up -d --scale generation=4

Kinds that are all alike are one Compose service each, which `--scale` changes; those with a GPU or a part of their
own are one service for each process. All containers have one user, to whom belongs what they keep.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from penstock.bus import User
from penstock.kube.containers import (
    FILES,
    FOLDER,
    KEY,
    LOGIN,
    PAGE,
    Place,
    container,
    create_container,
    login_of,
    nats_config,
    nats_container,
    object_name,
    volumes,
)
from penstock.recipes import Recipe, dump
from penstock.supervisor.devices import Devices, wanted
from penstock.supervisor.plan import instances, kind_of

ENDS = ("create", "learner")
"""Started again only where they fail: their end is that of their work."""
KEEPS = ("coordinator", "learner", "nats", "weight_sync")
"""What has a folder that outlives its container."""
SHARED_MEMORY = "512gb"
"""A bound, of which only what is used counts: an engine has two versions there."""


@dataclasses.dataclass(frozen=True)
class Host:
    """Where all of it runs. user: UID:GID of all containers; gpus: how many it has; otlp: where spans go, if at all."""

    user: str
    gpus: int = 0
    otlp: str = ""


def compose(
    recipe: Recipe, place: Place, page_key: str, users: Mapping[str, User], host: Host
) -> tuple[dict[str, Any], dict[str, str]]:
    """The file's content, and by path what lies beside it: recipe and secrets. `place.files` is the folder that
    containers find at FILES.

    Raises ValueError for a learner of several nodes and a cluster of NATS, which are several hosts.
    """
    if recipe.limits.replicas > 1:
        raise ValueError(
            f"limits.replicas: {recipe.limits.replicas} copies want as many hosts with NATS, and Compose is one; set 1"
        )
    if recipe.learner.nodes > 1:
        raise ValueError(f"learner.nodes: {recipe.learner.nodes} nodes are as many hosts, and Compose is one; set 1")
    services = {
        "nats": _service(nats_container(place), "nats", place, host, {"/config/nats.conf": "./secrets/nats.conf"}),
        "create": _service(create_container(place), "create", place, host, {"/recipe/recipe.yaml": "./recipe.yaml"}),
    }
    names = instances(recipe)
    alike = Counter(kind for name in names if _alike(recipe, kind := kind_of(name), place))
    devices = Devices([str(i) for i in range(host.gpus)])
    for name in names:
        kind = kind_of(name)
        if kind in alike:
            services[object_name(kind)] = {
                **_service(_unnamed(container(recipe, kind, place)), kind, place, host),
                "deploy": {"replicas": alike[kind]},
            }
        else:
            made = _service(_named(container(recipe, kind, place), name), kind, place, host)
            seen = devices.variables(recipe, name, names) if place.accelerator == "cuda" else {}
            services[object_name(name)] = {
                **_with_gpus(made, seen),
                "networks": {"default": {"aliases": [object_name(kind)]}},
            }
    files = {
        "recipe.yaml": dump(recipe),
        "secrets/nats.conf": nats_config(recipe, users),
        "secrets/page.key": f"{page_key}\n",
    }
    files |= {f"secrets/{login_of(kind)}": f"{user.login.user}:{user.login.secret}\n" for kind, user in users.items()}
    return {"name": f"penstock-{recipe.run}", "services": services}, files


def kept() -> list[str]:
    """The folders, beside the file, of what outlives its container."""
    return [f"kept/{kind}" for kind in KEEPS]


def _alike(recipe: Recipe, kind: str, place: Place) -> bool:
    """Whether the processes of a kind differ in nothing, and may be more or fewer."""
    if kind in ("rollout", "environment", "adapters", "gateway"):
        return True
    return kind == "generation" and (place.accelerator == "cpu" or not wanted(recipe, "generation-0")[0])


def _named(made: dict[str, Any], name: str) -> dict[str, Any]:
    """A container whose process has a name of its own."""
    words = made["args"]
    if "--name" not in words:
        return made
    at = words.index("--name") + 1
    return {**made, "args": [*words[:at], name, *words[at + 1 :]]}


def _unnamed(made: dict[str, Any]) -> dict[str, Any]:
    """A container whose process finds by itself what only a pod is told: its name."""
    words = list(made["args"])
    if "--name" in words:
        at = words.index("--name")
        del words[at : at + 2]
    return {**made, "args": words}


def _service(
    made: dict[str, Any], kind: str, place: Place, host: Host, given: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A container as Compose has it. given: further files, by where they are seen."""
    held = {each["name"] for each in volumes("operator" if kind == "create" else kind, place)} if kind != "nats" else {}
    binds = dict(given or {})
    if kind in KEEPS:
        binds["/store" if kind == "nats" else FOLDER] = f"./kept/{kind}"
    if "files" in held:
        binds[FILES] = place.files
    if "key" in held:
        binds[f"{KEY}/page.key"] = "./secrets/page.key"
    if "login" in held:
        binds[f"{LOGIN}/login"] = f"./secrets/{login_of('operator' if kind == 'create' else kind)}"
    own = ["/tmp", *([FOLDER] if FOLDER not in binds and kind != "nats" else [])]
    writes = {"/store", FOLDER}
    found: dict[str, Any] = {"image": made["image"]}
    if "command" in made:
        found["entrypoint"] = made["command"]
    else:
        found["command"] = made["args"]
    found |= {
        "user": host.user,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "on-failure" if kind in ENDS else "unless-stopped",
        "stop_grace_period": "45s",
        "volumes": [f"{here}:{there}{'' if there in writes else ':ro'}" for there, here in binds.items()],
        "tmpfs": [f"{path}:mode=1777,exec" for path in own],
        "environment": {
            "HOME": "/tmp",
            **{each["name"]: each["value"] for each in made.get("env", ()) if "value" in each},
            **({"OTEL_EXPORTER_OTLP_ENDPOINT": host.otlp} if host.otlp else {}),
        },
    }
    if kind != "nats":
        found["depends_on"] = ["nats"]  # which ends last
    if "shm" in held:
        found["shm_size"] = SHARED_MEMORY
    if kind == "dashboard":
        found["ports"] = [f"127.0.0.1:{PAGE}:{PAGE}"]
    return found


def _with_gpus(made: dict[str, Any], seen: Mapping[str, str]) -> dict[str, Any]:
    if not seen:
        return made
    asked = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    return {
        **made,
        "environment": {**made["environment"], **seen},
        "deploy": {"resources": {"reservations": {"devices": [asked]}}},
    }
