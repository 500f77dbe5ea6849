"""A rendered run as real pods: `python -m tests.pods.pods FOLDER`, as root, with podman and our images.

`penstock kube` renders a small recipe, kubectl builds it, and every Deployment, StatefulSet and Job becomes pods of
`podman kube play` on a network of their own, each with its kind's login for NATS. Of two engines one is killed in the
middle, and the rollout too, for which another comes; the run must end by itself with streams that `verify` finds
nothing in. What came of it is printed as JSON.

Podman knows no Services, claims of sets or gRPC probes: volumes become folders of this host, probes are left out, and
what a field of the pod would say is written into its variables.
"""

import argparse
import asyncio
import base64
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import yaml

from penstock.audit import read_run
from penstock.bus import EmbeddedServer, RunNames, connect, load_payload, read
from penstock.bus.embedded import STORE
from penstock.kube.containers import USER
from penstock.tiny_model import make_assets
from penstock.trajectories import decode

RUN, STEPS, WITHIN = "pods", 60, 900.0
NETWORK = "penstock-pods"
PODS = ("Deployment", "StatefulSet", "Job")


def recipe(files: pathlib.Path) -> dict[str, Any]:
    """A GRPO run of STEPS steps over the assets below `files`."""
    make_assets(files, demonstrations=64, prompts=256)
    for path in files.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # pods are another user
    return {
        "run": RUN,
        "model": {"path": str(files / "model")},
        "data": {"train": str(files / "train.jsonl"), "eval": str(files / "eval.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": STEPS, "groups_per_step": 4, "group_size": 4},
        "sampling": {"max_tokens": 24},
        "evaluation": {"tasks": 4},
        "learner": {"checkpoints": {"every": 5}, "optimizer": {"learning_rate": 1.0e-4}},
        "generation": {"max_running": 64, "max_context": 96},
        "telemetry": {"tensorboard": False},
    }


class Cluster:
    """The manifests of `rendered`, played; volumes lie below `folder`."""

    def __init__(self, rendered: pathlib.Path, folder: pathlib.Path, files: pathlib.Path) -> None:
        self.folder, self._files = folder, files
        done = subprocess.run(["kubectl", "kustomize", str(rendered)], capture_output=True, text=True, check=True)
        objects = list(yaml.safe_load_all(done.stdout))
        self._beside = [o for o in objects if o["kind"] == "ConfigMap"]
        self._secrets = {o["metadata"]["name"]: _texts(o) for o in objects if o["kind"] == "Secret"}
        self._workloads = {o["metadata"]["name"]: o for o in objects if o["kind"] in PODS}
        self.started = dict[str, float]()

    def __enter__(self) -> "Cluster":
        podman("network", "create", NETWORK)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.started):
            self.stop(name)
        podman("network", "rm", "-f", NETWORK)

    @property
    def names(self) -> list[str]:
        return list(self._workloads)

    def volume(self, pod: str, name: str) -> pathlib.Path:
        return self.folder / "volumes" / pod / (STORE if name == "store" else name)

    def start(self, workload: str, number: int = 0) -> str:
        """Plays one pod of a workload; its name."""
        template = json.loads(json.dumps(self._workloads[workload]["spec"]["template"]))
        pod = workload if workload == "nats" else f"{workload}-{number}"
        spec, claims = template["spec"], self._workloads[workload]["spec"].get("volumeClaimTemplates", ())
        for left_out in ("securityContext", "topologySpreadConstraints"):
            spec.pop(left_out, None)
        spec["restartPolicy"] = "OnFailure"
        spec["volumes"] += [{"name": claim["metadata"]["name"], "emptyDir": {}} for claim in claims]
        spec["volumes"] = [self._on_host(pod, each) for each in spec["volumes"]]
        for container in spec["containers"]:
            for left_out in ("startupProbe", "readinessProbe", "livenessProbe", "ports"):  # which it would publish here
                container.pop(left_out, None)
            said = {"metadata.name": pod, "spec.nodeName": pod, "recipe": RUN}
            values = {e["name"]: e.get("value", said.get(_source(e), "0")) for e in container.get("env", ())}
            container["env"] = [{"name": name, "value": value} for name, value in values.items()]
            container["args"] = [_filled(word, values) for word in container.get("args", ())]
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, **template["metadata"]}, "spec": spec}
        path = self.folder / f"{pod}.yaml"
        path.write_text(yaml.safe_dump_all([*self._beside, made]))
        podman("kube", "play", "--network", NETWORK, str(path))
        self.started[pod] = time.monotonic()
        return pod

    def _secret(self, volume: dict[str, Any]) -> dict[str, Any]:
        """A folder with what a Secret holds, for the pod's group to read."""
        path = self.folder / "secrets" / volume["secret"]["secretName"]
        path.mkdir(parents=True, exist_ok=True)
        for key, text in self._secrets[path.name].items():
            (path / key).write_text(text)
            (path / key).chmod(volume["secret"]["defaultMode"])
            os.chown(path / key, 0, USER)
        return {"name": volume["name"], "hostPath": {"path": str(path), "type": "Directory"}}

    def stop(self, pod: str) -> None:
        """Kills it, whatever it does."""
        podman("pod", "rm", "-f", "-t", "0", pod)
        del self.started[pod]

    def code(self, pod: str, container: str) -> int | None:
        """How its container ended; None while it runs."""
        said = json.loads(podman("container", "inspect", f"{pod}-{container}"))[0]["State"]
        return None if said["Running"] else int(said["ExitCode"])

    def words(self, pod: str, container: str) -> str:
        return podman("logs", "--tail", "12", f"{pod}-{container}", check=False)[-2000:]

    def _on_host(self, pod: str, volume: dict[str, Any]) -> dict[str, Any]:
        if "configMap" in volume:
            return volume
        if "secret" in volume:  # podman 4.3 shows their base64
            return self._secret(volume)
        path = self._files if volume["name"] == "files" else self.volume(pod, volume["name"])
        path.mkdir(parents=True, exist_ok=True)
        if path != self._files:
            os.chown(path, USER, USER)
        return {"name": volume["name"], "hostPath": {"path": str(path), "type": "Directory"}}


def _texts(secret: dict[str, Any]) -> dict[str, str]:
    """What a Secret holds, by key."""
    found = {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}
    return found | secret.get("stringData", {})


def _source(variable: dict[str, Any]) -> str:
    """Which field of a pod, or which ConfigMap, a variable has the value of."""
    source = variable.get("valueFrom", {})
    found: str = source.get("configMapKeyRef", {}).get("name", "") or source.get("fieldRef", {}).get("fieldPath", "")
    return found


def _filled(word: str, values: dict[str, str]) -> str:
    """An argument with its variables, as Kubernetes fills them in."""
    for name, value in values.items():
        word = word.replace(f"$({name})", value)
    return word


def podman(*words: str, check: bool = True) -> str:
    done = subprocess.run(["podman", *words], capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"podman {' '.join(words)}: {done.stderr}")
    return done.stdout + (done.stderr if not check else "")


def play(cluster: Cluster) -> dict[str, Any]:
    """The run from its first pod to its end; seconds and counts of it."""
    began, metrics = time.monotonic(), cluster.volume("coordinator-0", "folder") / "metrics.jsonl"

    def until(what: str, holds: Any) -> float:
        while not holds():
            if time.monotonic() - began > WITHIN:
                told = "\n".join(f"{p}: {cluster.words(p, p.rpartition('-')[0] or p)}" for p in cluster.started)
                raise RuntimeError(f"{what} did not come within {WITHIN:g} s:\n{told}")
            time.sleep(0.2)  # podman and files announce nothing
        return time.monotonic() - began

    def steps() -> int:
        return metrics.read_text().count("\n") if metrics.is_file() else 0

    cluster.start("nats")
    cluster.start("create")
    for name in cluster.names:
        if name not in ("nats", "create"):
            cluster.start(name)
    cluster.start("generation", 1)
    found: dict[str, Any] = {"pods": len(cluster.started)}
    found["first step"] = round(until("the first step", lambda: steps() >= 1), 1)
    until("the middle", lambda: steps() >= STEPS // 2)
    cluster.stop("generation-1")
    cluster.stop("rollout-0")
    cluster.start("rollout", 1)
    found["last step"] = round(until("the last step", lambda: steps() >= STEPS), 1)
    until("the learner's end", lambda: cluster.code("learner-0", "learner") is not None)
    found["learner ended with"] = cluster.code("learner-0", "learner")
    return found | {"steps": steps()}


async def audited(store: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """What the streams say of the run."""
    async with EmbeddedServer(store.parent, folder / "nats-read.log") as server:
        async with connect(server.url, name="audit") as bus:
            names = RunNames(RUN)
            audit, verdict = await read_run(bus, names, 3)
            drawn = Counter[str]()
            async for entry in read(bus, names.log, live=False):
                drawn[decode(await load_payload(bus, names, entry.payload)).engine] += 1
            counts = dataclasses.asdict(audit.ledger.samples)
            return {"findings": verdict.findings, "samples": counts, "by engine": sorted(drawn.values())}


def main(folder: pathlib.Path) -> dict[str, Any]:
    files, rendered = folder / "files", folder / "kubernetes"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe(files)))
    words = ["kube", str(path), "--files", str(files), "--output", str(rendered)]
    subprocess.run([sys.executable, "-m", "penstock.cli", *words], check=True, stdout=sys.stderr)
    with Cluster(rendered / "overlays" / RUN, folder, files) as cluster:
        found = play(cluster)
    return found | asyncio.run(audited(cluster.volume("nats", "store"), folder))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    print(json.dumps(main(parser.parse_args().folder.absolute())))  # noqa: T201 - its answer
