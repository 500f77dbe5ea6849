"""A run as a Compose file: what it names is there, and services understand what they are told."""

from typing import Any

import pytest

from penstock.access import Login, subjects_of
from penstock.bus import RunNames, User
from penstock.kube import Host, Place, compose, kept
from penstock.kube.containers import COORDINATOR
from penstock.process import flags
from penstock.recipes import Recipe, resolve
from penstock.tiny_model import make_model

USERS: dict[str, User] = {
    kind: User(Login(kind, f"{kind}'s"), each) for kind, each in subjects_of(RunNames("r")).items()
}
OWN = {"dashboard": ("--key-file",), "gateway": ("--http",), "weight_sync": ("--bulk-port",)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("files")
    make_model(folder / "model", hidden=32, layers=1, intermediate=64)
    (folder / "rows.jsonl").write_text('{"prompt": "a"}\n')
    rows, model = str(folder / "rows.jsonl"), str(folder / "model")
    judge = {"path": model, "prompt": "{completion}", "max_context": 128, "max_tokens": 8, "replicas": 2}
    rewards = [{"name": "length"}, {"name": "judge", "weight": 0.5, "judge": judge}]
    return {
        "run": "r",
        "model": {"path": model},
        "data": {"train": rows, "eval": rows},
        "environment": {"name": "length", "rewards": rewards},
        "algorithm": {"steps": 2, "groups_per_step": 2, "group_size": 2},
        "sampling": {"max_tokens": 8},
        "generation": {"replicas": 3, "max_context": 64, "tensor": 2},
        "learner": {"ranks": 4},
        "rollout": {"workers": 2},
    }


def made(recipe: Recipe, accelerator: str = "cpu", gpus: int = 12) -> tuple[dict[str, Any], dict[str, str]]:
    content, files = compose(
        recipe, Place(files="/srv/files", accelerator=accelerator), "a key", USERS, Host("1000:1000", gpus)
    )
    services: dict[str, Any] = content["services"]
    return services, files


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_every_service_is_told_what_its_own_flags_are(source: dict[str, Any], accelerator: str) -> None:
    services, _ = made(resolve(source), accelerator)
    served = [service["command"] for service in services.values() if service.get("command", [""])[0] == "serve"]
    assert len(served) == (9 if accelerator == "cpu" else 11)
    for words in served:
        parser = flags(words[1], "")
        for flag in ("--join", "--folder", *OWN.get(words[1], ())):
            parser.add_argument(flag, required=True)
        assert parser.parse_args(words[2:]).run == "r" and not any("$" in word for word in words)


def test_what_is_mounted_is_written_and_nobody_sees_anothers_login(source: dict[str, Any]) -> None:
    services, files = made(resolve(source))
    written = {f"./{name}" for name in (*files, *kept())}
    for name, service in services.items():
        binds = [each.split(":") for each in service["volumes"]]
        assert {here for here, *_ in binds} <= written | {"/srv/files"}, name
        assert service["read_only"] and service["user"] == "1000:1000" and service["cap_drop"] == ["ALL"]
        kind = {"create": "operator"}.get(name, name.rstrip("0123456789-")).replace("judge", "generation")
        logins = [here for here, there, *_ in binds if there == "/login/login"]
        assert logins == ([] if name == "nats" else [f"./secrets/nats-{kind}"]), name
        for folder in {"/run/penstock", "/tmp"} - ({"/run/penstock"} if name in ("nats", "create") else set()):
            assert any(each.startswith(folder) for each in service["tmpfs"]) or folder in {b[1] for b in binds}, name


def test_what_is_alike_may_be_more_and_what_is_not_has_a_name(source: dict[str, Any]) -> None:
    services, _ = made(resolve(source))
    assert (services["generation"]["deploy"]["replicas"], services["rollout"]["deploy"]["replicas"]) == (3, 2)
    assert "--name" not in services["generation"]["command"]
    names = [services[f"judge-{i}"]["command"] for i in range(2)]
    assert [words[words.index("--name") + 1] for words in names] == ["judge-0", "judge-1"]
    assert services["learner"]["restart"] == services["create"]["restart"] == "on-failure"
    ends = [name for name, service in services.items() if "--ends-with-run" in service.get("command", ())]
    assert ends == ["learner"], "any other would be started again, and again"


def test_commands_in_the_coordinators_container_ask_it(source: dict[str, Any]) -> None:
    services, _ = made(resolve(source))
    words = services["coordinator"]["command"]
    port = words[words.index("--listen") + 1].rpartition(":")[2]
    told = {name: service["environment"].get(COORDINATOR) for name, service in services.items()}
    assert told.pop("coordinator") == f"127.0.0.1:{port}" and not any(told.values())


def test_each_process_has_gpus_of_its_own(source: dict[str, Any]) -> None:
    services, _ = made(resolve(source), "cuda")
    seen = {
        n: s["environment"]["CUDA_VISIBLE_DEVICES"]
        for n, s in services.items()
        if "deploy" in s and "environment" in s and "CUDA_VISIBLE_DEVICES" in s["environment"]
    }
    devices = [device for each in seen.values() for device in each.split(",")]
    assert len(devices) == len(set(devices)) == 4 + 3 * 2 + 2 * 1, seen
    few, _ = made(resolve(source), "cuda", gpus=1)
    assert few["learner"]["environment"]["CUDA_VISIBLE_DEVICES"] == "0", "where too few are there they are shared"
    assert services["generation-1"]["networks"]["default"]["aliases"] == ["generation"]


def test_an_agents_gateway_tells_its_own_address(source: dict[str, Any]) -> None:
    settings = resolve(source).model_dump()
    settings["environment"] |= {"name": "sorting_agent", "agent": True, "max_turns": 2, "rewards": ()}
    services, _ = made(Recipe.model_validate(settings))
    assert "--http" in services["gateway"]["command"] and "--advertise-http" not in services["gateway"]["command"]


def test_a_learner_of_several_nodes_is_refused_in_a_sentence(source: dict[str, Any]) -> None:
    recipe = resolve({**source, "learner": {"ranks": 4, "nodes": 2}})
    with pytest.raises(ValueError, match="learner.nodes: 2 nodes are as many hosts, and Compose is one; set 1"):
        made(recipe)
    with pytest.raises(ValueError, match="limits.replicas: 3 copies want as many hosts with NATS, and Compose is one"):
        made(resolve({**source, "limits": {"replicas": 3}}))
