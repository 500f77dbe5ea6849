"""What scale, join, create and serve --join make of their words, and of a run that is there, over, or not."""

import argparse
import asyncio
import pathlib
import shutil
import sys
from typing import Any

import pytest
import yaml

from penstock.bus import Bucket, Bus, EmbeddedServer, RunNames
from penstock.chat import ChatTokenizer
from penstock.cli.commands.scale import there
from penstock.cli.commands.serve import joined_words
from penstock.cli.joining import FIRST, Joining, _needs_weights, join, names_here, recipe_of, this_host
from penstock.cli.making import make_run
from penstock.membership import Member, MemberState, View
from penstock.process import flags
from penstock.recipes import Recipe, RecipeError, resolve
from penstock.supervisor.plan import kind_of
from penstock.supervisor.supervisor import FAST_DEATHS
from penstock.tiny_model import make_model

READY, STARTING = MemberState.MEMBER_STATE_READY, MemberState.MEMBER_STATE_STARTING


@pytest.fixture
def raw(tmp_path: pathlib.Path) -> dict[str, Any]:
    make_model(tmp_path / "model", hidden=32, layers=1, intermediate=64)
    (tmp_path / "train.jsonl").write_text('{"prompt": "a"}\n')
    return {
        "run": "r1",
        "model": {"path": str(tmp_path / "model")},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 1},
    }


@pytest.fixture
def recipe(raw: dict[str, Any]) -> Recipe:
    return resolve(raw)


def test_members_of_a_place_are_counted_by_their_names() -> None:
    view = View()
    states = {"generation-0": READY, "generation-1": STARTING, "generation-b-0": READY, "rollout-0": READY}
    for i, (instance, state) in enumerate(states.items(), start=1):
        kind = instance.partition("-")[0]
        view.entry(instance, Member(kind=kind, instance=instance, state=state), i, 0.0)
    assert there(view, "generation", FIRST) == (1, 2)
    assert there(view, "generation", "b") == (1, 1) and there(view, "rollout", "b") == (0, 0)


async def test_whoever_joins_finds_the_recipe_in_the_run_and_needs_no_rows(
    nats: EmbeddedServer, bus: Bus, recipe: Recipe, tmp_path: pathlib.Path
) -> None:
    await make_run(bus, recipe)
    pathlib.Path(recipe.data.train or "").unlink()
    words = ["--join", nats.url, "--run", "r1", "--folder", str(tmp_path / "here"), "--zone", "a"]
    found = await joined_words("rollout", words)
    args = argparse.ArgumentParser()
    for flag in ("--name", "--nats", "--run", "--recipe", "--zone"):
        args.add_argument(flag)
    given, _ = args.parse_known_args(found)
    assert (given.nats, given.run, given.zone) == (nats.url, "r1", "a")
    assert given.name.startswith("rollout-") and "--join" not in found
    assert "--ends-with-run" not in found, "a container that ended would be started again, and again"
    assert "--ends-with-run" in await joined_words("rollout", [*words, "--ends-with-run"])
    assert yaml.safe_load(pathlib.Path(given.recipe).read_text())["environment"]["name"] == "sort_characters"
    assert not {"--generation", "--environment", "--token-file"} & set(found)
    with pytest.raises(ValueError, match="--join: which run is it"):
        await joined_words("rollout", ["--join", nats.url])


async def test_a_relay_is_weight_sync_with_a_name_and_a_folder_of_its_own(
    nats: EmbeddedServer, bus: Bus, recipe: Recipe, tmp_path: pathlib.Path
) -> None:
    await make_run(bus, recipe)
    words = ["--join", nats.url, "--run", "r1", "--folder", str(tmp_path / "here"), "--zone", "a"]
    args = flags("weight_sync", "")
    args.add_argument("--relay", action="store_true")
    args.add_argument("--directory", type=pathlib.Path)
    args.add_argument("--keep", type=int)
    for more, name in (([], f"relay-{this_host()}"), (["--name", "relay-2"], "relay-2")):
        relay = args.parse_args(await joined_words("weight_sync", [*words, "--relay", *more]))
        assert relay.relay and (relay.name, relay.zone, relay.nats) == (name, "a", nats.url)
        assert relay.directory == tmp_path / "here" / name and relay.keep == recipe.weight_sync.keep_versions
    itself = args.parse_args(await joined_words("weight_sync", words))
    assert not itself.relay and itself.name == "weight_sync"


async def test_a_host_without_the_model_has_its_tokenizer_from_the_run_and_starts_no_learner(
    bus: Bus, recipe: Recipe, tmp_path: pathlib.Path
) -> None:
    await make_run(bus, recipe)
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    found = await recipe_of(bus, RunNames("r1"), tmp_path / "here", ["rollout"])
    assert found.model.path == str(tmp_path / "here" / "model")
    assert ChatTokenizer(found.model.path).text([3]) == ChatTokenizer(tmp_path / "elsewhere").text([3])
    assert await recipe_of(bus, RunNames("r1"), tmp_path / "engines", ["generation", "rollout"]), "they fetch a version"
    with pytest.raises(RecipeError, match="model.path: no directory .*model' here, and learner needs its weights: tr"):
        await recipe_of(bus, RunNames("r1"), tmp_path / "there", ["learner", "rollout"])
    make_model(tmp_path / "model", hidden=64, layers=1, intermediate=64)  # another one
    with pytest.raises(RecipeError, match=r"model.path: .*model' here is another model .* \(config.json differ\); put"):
        await recipe_of(bus, RunNames("r1"), tmp_path / "other", ["rollout"])
    assert await recipe_of(bus, RunNames("r1"), tmp_path / "blind", ["environment"]), "it reads no model"
    shutil.rmtree(tmp_path / "model")
    await Bucket(bus, RunNames("r1")).put(RunNames("r1").model_key, b"\x00no archive")
    with pytest.raises(RecipeError, match="model bundle cannot be read"):
        await recipe_of(bus, RunNames("r1"), tmp_path / "bad", ["rollout"])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"learner": {"lora": {"publish": "adapters"}}},
            "learner.lora.publish=adapters publishes changes of them alone",
        ),
        ({"mode": "evaluate"}, "nobody publishes them where mode is 'evaluate'"),
        ({"generation": {"speculative": {"method": "mtp"}}}, "drafts with a part of them that is not trained"),
    ],
)
def test_engines_of_some_runs_need_the_weights(recipe: Recipe, changes: dict[str, Any], why: str) -> None:
    said = recipe.model_dump()
    merged = {key: {**said[key], **value} if isinstance(value, dict) else value for key, value in changes.items()}
    assert why in _needs_weights(Recipe.model_validate({**said, **merged}), "generation")
    assert not _needs_weights(recipe, "generation") and not _needs_weights(recipe, "rollout")


async def test_making_a_run_again_says_that_it_goes_on(bus: Bus, recipe: Recipe) -> None:
    await make_run(bus, recipe)
    names = RunNames("r1")
    await Bucket(bus, names).put(names.over_key, b"done")
    await make_run(bus, recipe)
    over = await Bucket(bus, names).get(names.over_key)
    assert over is not None and over.value == b""


def test_a_host_keeps_the_learner_or_a_node_of_it_under_a_name_that_stays(recipe: Recipe) -> None:
    assert names_here(recipe, {"generation": 2, "learner": 1}, "b") == ["generation-b-0", "generation-b-1", "learner"]
    nodes = Recipe.model_validate({**recipe.model_dump(), "learner": {"ranks": 4, "nodes": 2}})
    assert names_here(nodes, {"learner": 1}, "b") == ["learner-b"]
    assert kind_of("learner-b") == "learner"
    measured = Recipe.model_validate({**recipe.model_dump(), "mode": "evaluate"})
    with pytest.raises(RecipeError, match="learner=1: the run trains nothing, its mode is 'evaluate'"):
        names_here(measured, {"learner": 1}, "b")


LIVES = """
import pathlib, sys, time
lives = pathlib.Path(sys.argv[sys.argv.index("--run-directory") + 1], "lives")
with lives.open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if lives.read_text().count("\\n") == 1:
    raise SystemExit(7)
pathlib.Path(lives.parent, "second").touch()
while not lives.with_name("end").exists():
    time.sleep(0.02)
raise SystemExit(int(lives.with_name("end").read_text()))
"""


@pytest.mark.parametrize(("over", "code"), [(b"", 0), (b"failed", 1)])
async def test_a_learner_that_a_host_keeps_is_started_again_and_ends_with_the_run(
    nats: EmbeddedServer,
    bus: Bus,
    recipe: Recipe,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    over: bytes,
    code: int,
) -> None:
    """A program in its place dies, lives again, and ends as it is told; after a failed run it is not started again."""
    await make_run(bus, recipe)
    program, folder = tmp_path / "learner", tmp_path / "shared"
    program.write_text(f"#!{sys.executable}{LIVES}")
    program.chmod(0o755)
    monkeypatch.setenv("PENSTOCK_LAUNCH_LEARNER", str(program))
    restarted = list[tuple[str, str]]()
    keeping = asyncio.create_task(
        join(Joining(nats.url, "r1", folder), {"learner": 1}, lambda *each: restarted.append(each))
    )
    async with asyncio.timeout(30):
        while not (folder / "second").exists():
            await asyncio.sleep(0.02)  # a file announces nothing
        if over:
            await Bucket(bus, RunNames("r1")).put(RunNames("r1").over_key, over)
        (folder / "end.part").write_text(str(code))
        (folder / "end.part").rename(folder / "end")
        assert await keeping == over.decode()
    lives = (folder / "lives").read_text().splitlines()
    assert len(lives) == 2 if not over else 2 <= len(lives) < FAST_DEATHS
    assert all("--name learner " in life and "--ends-with-run" in life for life in lives)
    assert restarted[0][0] == "learner" and "7" in restarted[0][1]


def test_a_process_that_joins_has_its_places_name_and_ends_with_the_run(recipe: Recipe, tmp_path: pathlib.Path) -> None:
    near = Joining("nats://127.0.0.1:4222", "r1", tmp_path, tmp_path / "s", ("--zone=a",), "b")
    words = near.service(recipe, "generation-b-0").command
    assert words[words.index("--listen") + 1].startswith("127.0.0.1:") and "--ends-with-run" in words
    assert words[words.index("--nats-token-file") + 1] == str(tmp_path / "s" / "secrets" / "generation.nats")
    assert "--zone=a" in words and near.service(recipe, "generation-b-0").ends
    words = near.service(recipe, "relay-b-0").command
    for flag, file in (("--token-file", "relay.token"), ("--nats-token-file", "relay.nats")):
        assert words[words.index(flag) + 1] == str(tmp_path / "s" / "secrets" / file), "it is of no other kind"
    far = Joining("nats://10.0.0.1:4222", "r1", tmp_path, None, (), "b")
    words = far.service(recipe, "rollout-b-0").command
    assert words[words.index("--listen") + 1] == "0.0.0.0:0" and "--token-file" not in words
