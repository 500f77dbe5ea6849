"""The containers of a run's services: programs, flags, probes and rights. Pure.

Every container runs `penstock serve KIND --join NATS --run NAME`: all else it finds in the run. What it is given beside
that is where it listens. Calls are plain text inside the namespace, which network policies close.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from penstock.bus import Files, RunLimits, User, tls_section, users_section
from penstock.process.joining import DOMAIN
from penstock.recipes import Recipe
from penstock.supervisor.plan import RUNS, SHOWS

GRPC, BULK, METRICS, PAGE, HTTP, NATS, MONITOR, CLUSTER = 7000, 7001, 9400, 8080, 8000, 4222, 8222, 6222
"""Ports of every pod that has them."""
DRAIN_SECONDS = 30
USER = 65532
COORDINATOR = "PENSTOCK_COORDINATOR"
"""The variable that says to commands where the run's coordinator answers."""
FOLDER, FILES, KEY, LOGIN, TLS = "/run/penstock", "/files", "/key", "/login", "/tls"
"""Where a container has its own folder, the run's model and rows, the key of the page, and what it shows to NATS and,
where calls are encrypted, to everybody."""
PEM = Files(pathlib.Path(TLS, "tls.crt"), pathlib.Path(TLS, "tls.key"), pathlib.Path(TLS, "ca.crt"))
PODS = "pod.cluster.local"
"""Below a namespace and this, every pod has a name that is its address with dashes."""
IMAGES = {
    "generation": "generation",
    "teacher": "generation",
    "judge": "generation",
    "adapters": "adapters",
    "reward_model": "learner",
    "learner": "learner",
}
PULL = "IfNotPresent"
"""Also of a tag `latest`: images may have been loaded into the nodes, and be in no registry."""
LOCKED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

CONFIG = """\
port: {nats}
http_port: {monitor}
max_payload: 8MB
jetstream {{ store_dir: /store, sync_interval: always, max_file_store: {store} }}
{users}{tls}"""
ROUTES = """\
server_name: $POD
cluster {{ name: {run}, listen: "0.0.0.0:{cluster}", no_advertise: true, routes: {routes}
{tls}}}
"""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run is put. images: what an image's name begins with; files: the claim (or, with a slash, the path of the
    node) that has FILES; accelerator: cpu or cuda; tls: whether calls are encrypted, and know their callers."""

    namespace: str = "penstock"
    images: str = "localhost/penstock"
    tag: str = "latest"
    files: str = "penstock-files"
    accelerator: str = "cpu"
    tls: bool = False

    def image(self, kind: str) -> str:
        """Of a kind of service."""
        return f"{self.images}-{environment_of(kind)}-{self.accelerator}:{self.tag}"


def object_name(kind: str) -> str:
    """A kind as names of objects have it."""
    return kind.replace("_", "-")


def environment_of(kind: str) -> str:
    """Which packages a kind needs, as its image's name has it."""
    return IMAGES.get(kind, "light")


def pair_of(kind: str) -> str:
    """The Secret with the certificate of a kind."""
    return f"tls-{object_name(SHOWS.get(kind, kind))}"


def login_of(kind: str) -> str:
    """The Secret with what a kind shows to NATS."""
    return f"nats-{object_name(SHOWS.get(kind, kind))}"


def container(
    recipe: Recipe, kind: str, place: Place, gpus: int = 0, numbered: bool = False, run: str | None = None
) -> dict[str, Any]:
    """Of one kind of service. numbered: its name in the run ends with its number of the set. run: what it is told of
    the run's name, where that is a variable."""
    words = ["serve", RUNS.get(kind, kind), "--join", f"nats://nats:{NATS}", "--run", run or recipe.run]
    words += ["--folder", FOLDER]
    variables = [{"name": "HOME", "value": "/tmp"}, _field("PENSTOCK_ZONE", "spec.nodeName")]
    several = kind == "learner" and recipe.learner.nodes > 1
    if several or kind not in ("coordinator", "learner", "weight_sync", "dashboard"):
        source = "metadata.labels['apps.kubernetes.io/pod-index']" if numbered else "metadata.name"
        variables.append(_field("POD", source))
        words += ["--name", f"{kind}-$(POD)" if numbered else "$(POD)"]
    words += ["--listen", f"0.0.0.0:{PAGE if kind == 'dashboard' else GRPC}"]
    words += ["--metrics-host", "0.0.0.0", "--metrics-port", str(METRICS), "--drain-seconds", str(DRAIN_SECONDS)]
    words += [*(shown() if place.tls else ["--insecure"]), "--nats-token-file", f"{LOGIN}/login"]
    if place.tls:  # certificates know names, and no addresses
        variables += [_field("NAMESPACE", "metadata.namespace"), {"name": DOMAIN, "value": f"$(NAMESPACE).{PODS}"}]
    if kind == "gateway":
        words += ["--http", f"0.0.0.0:{HTTP}"]
    if kind == "weight_sync":
        words += ["--bulk-port", str(BULK)]
    if kind == "learner":
        words.append("--ends-with-run")
    if kind == "coordinator":  # commands that are given in its container ask it
        variables.append({"name": COORDINATOR, "value": f"127.0.0.1:{GRPC}"})
    if kind == "dashboard":
        words += ["--key-file", f"{KEY}/page.key"]
    ports = [
        {"name": "page" if kind == "dashboard" else "grpc", "containerPort": PAGE if kind == "dashboard" else GRPC}
    ]
    if kind == "gateway":
        ports.append({"name": "http", "containerPort": HTTP})
    if kind == "weight_sync":
        ports.append({"name": "bulk", "containerPort": BULK})
    made: dict[str, Any] = {
        "name": object_name(kind),
        "image": place.image(kind),
        "imagePullPolicy": PULL,
        "args": words,
        "env": variables,
        "ports": [*ports, {"name": "metrics", "containerPort": METRICS}],
        "resources": _resources(kind, gpus),
        "securityContext": LOCKED,
        "volumeMounts": _mounts(kind, place),
    }
    # Of several nodes a rank answers on that port, and only once all have met: whoever waits for others is not dead.
    return made if several else {**made, **_probes(kind, place.tls)}


def shown() -> list[str]:
    """The flags that name a container's certificate."""
    return ["--tls-ca", str(PEM.authority), "--tls-certificate", str(PEM.certificate), "--tls-key", str(PEM.key)]


def volumes(kind: str, place: Place) -> list[dict[str, Any]]:
    """Of the pod of a kind."""
    found: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}, {"name": "folder", "emptyDir": {}}]
    if kind in ("generation", "teacher", "judge", "learner", "reward_model"):
        found.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    if kind not in ("environment", "adapters"):
        claim = {"persistentVolumeClaim": {"claimName": place.files, "readOnly": True}}
        found.append({"name": "files", **({"hostPath": {"path": place.files}} if "/" in place.files else claim)})
    found.append({"name": "login", "secret": {"secretName": login_of(kind), "defaultMode": 0o440}})
    if place.tls:
        found.append(pair_volume(kind))
    if kind == "dashboard":
        found.append({"name": "key", "secret": {"secretName": "page", "defaultMode": 0o440}})
    return found


def pair_volume(kind: str) -> dict[str, Any]:
    """With the certificate of a kind."""
    return {"name": "tls", "secret": {"secretName": pair_of(kind), "defaultMode": 0o440}}


def _mounts(kind: str, place: Place) -> list[dict[str, Any]]:
    paths = {"tmp": "/tmp", "folder": FOLDER, "shm": "/dev/shm", "files": FILES, "key": KEY, "login": LOGIN}
    paths["tls"], read_only = TLS, ("files", "key", "login", "tls")
    return [
        {"name": v["name"], "mountPath": paths[v["name"]], **({"readOnly": True} if v["name"] in read_only else {})}
        for v in volumes(kind, place)
    ]


def _resources(kind: str, gpus: int) -> dict[str, Any]:
    cpu, memory = ("1", "2Gi") if kind in IMAGES else ("250m", "512Mi")
    asked: dict[str, Any] = {"requests": {"cpu": cpu, "memory": memory}}
    return {**asked, "limits": {"nvidia.com/gpu": gpus}} if gpus else asked


def _probes(kind: str, tls: bool) -> dict[str, Any]:
    """gRPC's health; of the page, and where the kubelet has no certificate to show, whether somebody listens."""
    port = PAGE if kind == "dashboard" else GRPC
    asked: dict[str, Any] = {"tcpSocket": {"port": port}} if tls or kind == "dashboard" else {"grpc": {"port": port}}
    return {
        "startupProbe": {**asked, "periodSeconds": 5, "failureThreshold": 240},
        "readinessProbe": {**asked, "periodSeconds": 5},
        "livenessProbe": {**asked, "periodSeconds": 20, "failureThreshold": 6, "timeoutSeconds": 5},
    }


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def store_bytes(recipe: Recipe) -> int:
    """Most that a run keeps on NATS, and a gibibyte."""
    room = RunLimits(log_bytes=recipe.limits.log_bytes)
    return room.log_bytes + room.tasks_bytes + room.ledger_bytes + room.blob_bytes + (1 << 30)


def nats_config(recipe: Recipe, users: Mapping[str, User], servers: int = 1, tls: bool = False) -> str:
    """Of the run's NATS, which lets these in. servers: of its cluster, each of which is the pod `nats-NUMBER`; tls:
    whether it has a certificate, and wants one."""
    section = tls_section(PEM if tls else None)
    said = CONFIG.format(nats=NATS, monitor=MONITOR, store=store_bytes(recipe), users=users_section(users), tls=section)
    if servers == 1:
        return said
    routes = json.dumps([f"nats://nats-{i}.nats:{CLUSTER}" for i in range(servers)])
    return said + ROUTES.format(run=json.dumps(recipe.run), cluster=CLUSTER, routes=routes, tls=section)


def nats_container(place: Place) -> dict[str, Any]:
    """NATS, which the light image has."""
    lives, serves = ({"path": f"/healthz?js-{what}-only=true", "port": MONITOR} for what in ("enabled", "server"))
    mounts = [{"name": "config", "mountPath": "/config", "readOnly": True}, {"name": "store", "mountPath": "/store"}]
    mounts += [{"name": "tls", "mountPath": TLS, "readOnly": True}] if place.tls else []
    return {
        "name": "nats",
        "image": place.image("nats"),
        "imagePullPolicy": PULL,
        "command": ["nats-server", "-c", "/config/nats.conf"],
        "env": [_field("POD", "metadata.name")],
        "ports": [
            {"name": name, "containerPort": port}
            for name, port in (("nats", NATS), ("monitor", MONITOR), ("cluster", CLUSTER))
        ],
        "readinessProbe": {"httpGet": serves, "periodSeconds": 5},
        "livenessProbe": {"httpGet": lives, "periodSeconds": 20, "failureThreshold": 6},
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}},
        "securityContext": LOCKED,
        "volumeMounts": mounts,
    }


def create_container(place: Place) -> dict[str, Any]:
    """Makes the run on NATS, once; what is there goes on."""
    words = ["create", "/recipe/recipe.yaml", "--nats", f"nats://nats:{NATS}", "--monitor", f"http://nats:{MONITOR}"]
    words += ["--nats-token-file", f"{LOGIN}/login", *(shown() if place.tls else ())]
    mounts: list[dict[str, Any]] = [
        {"name": "recipe", "mountPath": "/recipe", "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "files", "mountPath": FILES, "readOnly": True},
        {"name": "login", "mountPath": LOGIN, "readOnly": True},
        *([{"name": "tls", "mountPath": TLS, "readOnly": True}] if place.tls else []),
    ]
    return {
        "name": "create",
        "image": place.image("create"),
        "imagePullPolicy": PULL,
        "args": words,
        "env": [{"name": "HOME", "value": "/tmp"}],
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}},
        "securityContext": LOCKED,
        "volumeMounts": mounts,
    }
