"""The manifests of a recipe: what they name exists, and what services are told they understand."""

import argparse
import itertools
import os
import pathlib
import subprocess
from typing import Any

import pytest

from penstock.access import KINDS, METHODS, Login, kind_of_uri, subjects_of
from penstock.bus import RunNames, User, find_nats_server
from penstock.kube import Place, components, manifests
from penstock.kube.containers import BULK, CLUSTER, GRPC, HTTP, METRICS, login_of
from penstock.kube.network import SERVES, callers_of
from penstock.process import flags
from penstock.process.joining import DOMAIN
from penstock.recipes import Recipe, resolve
from penstock.telemetry import metrics
from penstock.tiny_model import make_model

PODS = ("Deployment", "StatefulSet", "Job")
USERS: dict[str, User] = {
    kind: User(Login(kind, f"{kind}'s"), each) for kind, each in subjects_of(RunNames("r")).items()
}
OWN = {"dashboard": ("--key-file",), "gateway": ("--http",), "weight_sync": ("--bulk-port",)}
"""Flags of a service beside those that all have."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """One with every kind of service."""
    folder = tmp_path_factory.mktemp("files")
    make_model(folder / "model", hidden=32, layers=1, intermediate=64)
    (folder / "rows.jsonl").write_text('{"prompt": "a"}\n')
    rows, model = str(folder / "rows.jsonl"), str(folder / "model")
    judged = {
        "name": "judge",
        "weight": 0.5,
        "judge": {"path": model, "prompt": "{completion}", "max_context": 128, "max_tokens": 8},
    }
    return resolve(
        {
            "run": "r",
            "model": {"path": model},
            "data": {"train": rows, "eval": rows},
            "environment": {"name": "length", "rewards": [{"name": "length"}, judged]},
            "algorithm": {"steps": 2, "groups_per_step": 2, "group_size": 2},
            "sampling": {"max_tokens": 8},
            "generation": {"replicas": 3, "max_context": 64, "tensor": 2},
            "learner": {"ranks": 4},
            "rollout": {"workers": 2},
        }
    )


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def files(recipe: Recipe, request: pytest.FixtureRequest) -> dict[str, list[dict[str, Any]]]:
    return manifests(recipe, Place(accelerator=request.param), "a key", USERS)


def pods(files: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [each for each in itertools.chain(*files.values()) if each["kind"] in PODS]


def test_every_container_of_a_service_is_told_what_its_own_flags_are(files: dict[str, list[dict[str, Any]]]) -> None:
    served = 0
    names = {each["metadata"]["name"]: each for each in files["run.yaml"]}
    for each in pods(files):
        for container in each["spec"]["template"]["spec"]["containers"]:
            words = container.get("args", [])
            if words[:1] != ["serve"]:
                continue
            parser = flags(words[1], "")
            for flag in ("--join", "--folder", *OWN.get(words[1], ())):
                parser.add_argument(flag, required=True)
            args = parser.parse_args(words[2:])
            assert words[1] in KINDS and args.run == "$(RUN)" and args.metrics_port == METRICS
            (told,) = (e["valueFrom"]["configMapKeyRef"] for e in container["env"] if e["name"] == "RUN")
            assert names[told["name"]]["data"][told["key"]] == "r"
            assert args.listen.rpartition(":")[2] == str(container["ports"][0]["containerPort"])
            served += 1
    assert served == 8


def test_what_is_selected_mounted_or_asked_is_there(files: dict[str, list[dict[str, Any]]]) -> None:
    for each in pods(files):
        template = each["spec"]["template"]
        assert each["kind"] == "Job" or each["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
        spec = template["spec"]
        held = {volume["name"] for volume in spec["volumes"]}
        held |= {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", ())}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= held, each["metadata"]["name"]
            ports = {port["containerPort"] for port in container.get("ports", ())}
            for probe in (value for key, value in container.items() if key.endswith("Probe")):
                (asked,) = (probe[way]["port"] for way in ("grpc", "tcpSocket", "httpGet") if way in probe)
                assert asked in ports
        claims = {v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v}
        made = {e["metadata"]["name"] for e in itertools.chain(*files.values()) if e["kind"] == "PersistentVolumeClaim"}
        assert claims <= made | {Place.files}
        assert spec["securityContext"]["runAsNonRoot"] and not spec["automountServiceAccountToken"]


def test_who_may_call_may_reach_and_nobody_else(files: dict[str, list[dict[str, Any]]]) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in files["network.yaml"]}
    assert policies.pop("closed") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    kinds = [name for name in policies if name != "nats"]
    for kind in kinds:
        rules = [r for r in policies[kind]["ingress"] if {"port": GRPC} in r["ports"]]
        let_in = {pod["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for r in rules for pod in r["from"]}
        may = {caller.replace("_", "-") for caller in callers_of(kind.replace("-", "_"))}
        assert let_in == (may & set(kinds) if kind != "dashboard" else set()), kind
    assert "learner" not in {
        pod["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
        for rule in policies["generation"]["ingress"]
        for pod in rule.get("from", ())
    }


def test_engines_and_the_learner_alone_reach_the_bulk_socket(files: dict[str, list[dict[str, Any]]]) -> None:
    (policy,) = (each["spec"] for each in files["network.yaml"] if each["metadata"]["name"] == "weight-sync")
    (rule,) = (rule for rule in policy["ingress"] if {"port": BULK} in rule["ports"])
    names = [pod["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for pod in rule["from"]]
    assert names == ["generation", "learner"] and rule["ports"] == [{"port": BULK}]
    (service,) = (each["spec"] for each in files["weight-sync.yaml"] if each["kind"] == "Service")
    assert {"name": "bulk", "port": BULK, "targetPort": "bulk"} in service["ports"]
    (pods,) = (each["spec"]["template"]["spec"] for each in files["weight-sync.yaml"] if "template" in each["spec"])
    (container,) = pods["containers"]
    assert {"name": "bulk", "containerPort": BULK} in container["ports"]
    assert container["args"][container["args"].index("--bulk-port") + 1] == str(BULK)


def test_agents_reach_their_gateway_and_every_service_has_its_pods(recipe: Recipe) -> None:
    assert {m.partition("/")[0].rpartition(".")[2] for m in METHODS} == {*SERVES, "DiagnosticsService"}
    source = recipe.model_dump()
    source["environment"] |= {"name": "sorting_agent", "agent": True, "max_turns": 2, "rewards": ()}
    made = manifests(Recipe.model_validate(source), Place(), "k", USERS)
    (deployment,) = (each for each in made["gateway.yaml"] if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    parser = flags("gateway", "")
    for flag in ("--join", "--folder", *OWN["gateway"]):
        parser.add_argument(flag, required=True)
    args = parser.parse_args(container["args"][2:])
    assert args.http == f"0.0.0.0:{HTTP}" and HTTP in {port["containerPort"] for port in container["ports"]}
    (policy,) = (each for each in made["network.yaml"] if each["metadata"]["name"] == "gateway")
    assert {"port": HTTP} in [port for rule in policy["spec"]["ingress"] for port in rule["ports"]]


def test_each_pod_has_the_login_of_its_own_kind_and_nats_knows_it(files: dict[str, list[dict[str, Any]]]) -> None:
    logins = {
        e["metadata"]["name"]: e.get("stringData", {})
        for e in itertools.chain(*files.values())
        if e["kind"] == "Secret"
    }
    config = logins["nats"]["nats.conf"]
    for each in pods(files):
        spec = each["spec"]["template"]["spec"]
        held = [v["secret"]["secretName"] for v in spec["volumes"] if v["name"] == "login"]
        if each["metadata"]["name"] == "nats":
            continue
        name = each["metadata"]["name"]
        kind = {"create": "operator", "judge": "generation", "teacher": "generation"}.get(name, name)
        assert held == [f"nats-{kind}"], name
        user, _, password = logins[held[0]]["login"].partition(":")
        assert user == kind.replace("-", "_") and f'"user": "{user}", "password": "{password}"' in config


def test_autoscalers_scale_what_is_there_by_what_is_there(
    recipe: Recipe, files: dict[str, list[dict[str, Any]]]
) -> None:
    names = RunNames("r")
    deployments = {e["metadata"]["name"] for e in itertools.chain(*files.values()) if e["kind"] == "Deployment"}
    made = components(recipe, Place())["autoscaling"]
    found = {each["metadata"]["name"]: each["spec"] for each in made if each["kind"] == "ScaledObject"}
    assert set(found) == {"rollout", "generation"} <= deployments
    (asking,) = (each["spec"]["ingress"][0] for each in made if each["kind"] == "NetworkPolicy")
    port = found["rollout"]["triggers"][0]["metadata"]["natsServerMonitoringEndpoint"].rpartition(":")[2]
    assert [str(each["port"]) for each in asking["ports"]] == [port]
    lag = found["rollout"]["triggers"][0]["metadata"]
    assert (lag["stream"], lag["consumer"]) == (names.tasks, names.consumer("train"))
    asked = found["generation"]["triggers"][0]["metadata"]
    assert metrics.REQUESTS_RUNNING.replace(".", "_") in asked["query"]
    assert (found["generation"]["minReplicaCount"], found["rollout"]["minReplicaCount"]) == (3, 2)


@pytest.mark.parametrize("servers", [1, 3])
def test_a_real_nats_takes_its_configuration(recipe: Recipe, servers: int, tmp_path: pathlib.Path) -> None:
    source = recipe.model_dump()
    source["limits"] |= {"replicas": servers}
    made = manifests(Recipe.model_validate(source), Place(), "k", USERS)["nats.yaml"]
    (text,) = (e["stringData"]["nats.conf"] for e in made if e["kind"] == "Secret")
    (tmp_path / "nats.conf").write_text(text.replace("/store", str(tmp_path)))
    told = subprocess.run(
        [str(find_nats_server()), "-t", "-c", str(tmp_path / "nats.conf")],
        capture_output=True,
        env={**os.environ, "POD": "nats-0"},
    )
    assert told.returncode == 0, told.stderr
    (pods,) = (each["spec"] for each in made if each["kind"] == "StatefulSet")
    assert pods["replicas"] == servers and all(
        f"nats-{i}.nats:{CLUSTER}" in text for i in range(servers) if servers > 1
    )


@pytest.mark.parametrize("kind", ["adapters", "teacher", "judge", "environment", "learner", "relay"])
def test_every_kind_has_a_login_that_is_made(kind: str) -> None:
    assert login_of(kind) in {login_of(user) for user in USERS}


def test_counts_and_devices_are_the_recipes(recipe: Recipe) -> None:
    found = {p["metadata"]["name"]: p["spec"] for p in pods(manifests(recipe, Place(accelerator="cuda"), "k", USERS))}
    assert (found["generation"]["replicas"], found["rollout"]["replicas"], found["judge"]["replicas"]) == (3, 2, 1)

    def gpus(name: str) -> object:
        resources = found[name]["template"]["spec"]["containers"][0]["resources"]
        return resources.get("limits", {}).get("nvidia.com/gpu")

    assert [gpus(name) for name in ("learner", "generation", "judge", "rollout")] == [4, 2, 1, None]


def test_nodes_of_a_learner_are_pods_of_one_job_that_share_a_folder_and_reach_each_other(recipe: Recipe) -> None:
    source = recipe.model_dump()
    source["learner"] |= {"nodes": 2}
    made = manifests(Recipe.model_validate(source), Place(accelerator="cuda"), "k", USERS)
    (job,) = (each["spec"] for each in made["learner.yaml"] if each["kind"] == "Job")
    assert (job["completions"], job["parallelism"], job["completionMode"]) == (2, 2, "Indexed")
    (container,) = job["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2, "each node has its share of the ranks"
    assert container["args"][container["args"].index("--name") + 1] == "$(POD)"
    assert not {key for key in container if key.endswith("Probe")}, "its port answers when all have met"
    (claim,) = (each["spec"] for each in made["learner.yaml"] if each["kind"] == "PersistentVolumeClaim")
    assert claim["accessModes"] == ["ReadWriteMany"]
    (policy,) = (each["spec"] for each in made["network.yaml"] if each["metadata"]["name"] == "learner")
    whole = [rule for rule in policy["ingress"] if "ports" not in rule]
    assert [pod["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for r in whole for pod in r["from"]] == [
        "learner"
    ]


def test_with_tls_every_container_shows_a_certificate_that_is_made_and_nobody_is_insecure(recipe: Recipe) -> None:
    place = Place(namespace="mine", tls=True)
    files, beside = manifests(recipe, place, "k", USERS), components(recipe, place)
    made = {e["spec"]["secretName"]: e["spec"] for e in beside["tls"] if e["kind"] == "Certificate"}
    issuers = {e["metadata"]["name"]: e["spec"] for e in beside["tls"] if e["kind"] == "Issuer"}
    assert {spec["issuerRef"]["name"] for spec in made.values()} == set(issuers)
    assert issuers["penstock"]["ca"]["secretName"] in made and made["tls-ca"]["isCA"]
    for each in pods(files):
        spec, name = each["spec"]["template"]["spec"], each["metadata"]["name"]
        (shown,) = (v["secret"]["secretName"] for v in spec["volumes"] if v["name"] == "tls")
        (uri,) = made[shown]["uris"]
        kind = {"create": "operator", "judge": "generation"}.get(name, name.replace("-", "_"))
        assert uri == f"spiffe://penstock/{kind}" and kind_of_uri(uri) == (kind if kind in KINDS else None)
        (container,) = spec["containers"]
        words = container.get("args", [])
        assert "--insecure" not in words and ("--tls-ca" in words) == (name != "nats")
        for flag in ("--tls-ca", "--tls-certificate", "--tls-key"):
            assert name == "nats" or words[words.index(flag) + 1] in {"/tls/ca.crt", "/tls/tls.crt", "/tls/tls.key"}
        assert {"name": "tls", "mountPath": "/tls", "readOnly": True} in container["volumeMounts"]
        assert not any("grpc" in probe for key, probe in container.items() if key.endswith("Probe"))
        domain = [v["value"].replace("$(NAMESPACE)", "mine") for v in container["env"] if v["name"] == DOMAIN]
        assert all(f"*.{each}" in made[shown]["dnsNames"] for each in domain)
        assert domain or name in ("nats", "create")
    assert {"nats", *(f"nats-{i}.nats" for i in range(5))} <= set(made["tls-nats"]["dnsNames"])
    (text,) = (e["stringData"]["nats.conf"] for e in files["nats.yaml"] if e["kind"] == "Secret")
    assert '"/tls/tls.crt"' in text and "verify: true" in text
    (endpoint,) = beside["monitoring"][0]["spec"]["podMetricsEndpoints"]
    told = endpoint["tlsConfig"]
    assert told["keySecret"]["name"] in made and told["serverName"] in made["tls-rollout"]["dnsNames"]


def test_a_flag_that_no_service_has_is_found() -> None:
    """The first test can fail."""
    parser = flags("rollout", "")
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parser.parse_args(["--no-such-flag"])
