"""A recipe that cannot be run is refused with the key's path and the nearest valid choice."""

import json
import pathlib
import re
from typing import Any

import pytest
import yaml

from penstock.recipes import RecipeError, dump, load, resolve


@pytest.fixture
def raw(tmp_path: pathlib.Path) -> dict[str, Any]:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "train.jsonl").write_text("{}\n")
    return {
        "run": "r1",
        "model": {"path": str(tmp_path / "model")},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 3},
    }


def problems(raw: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(RecipeError) as error:
        resolve(raw, overrides)
    return "\n".join(error.value.problems)


def test_defaults_are_those_of_a_stale_corrected_run(raw: dict[str, Any]) -> None:
    recipe = resolve(raw)
    assert recipe.staleness.max_versions == 2
    assert recipe.algorithm.loss.correction == "tis"
    assert recipe.groups_budget == 96
    assert recipe.rewards()[0].name == "sort_characters"


def test_a_source_has_its_own_settings_and_the_recipes_others(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    data = {"train": str(tmp_path / "train.jsonl")}
    game = {"name": "g", "data": data, "environment": {"name": "game", "multi_turn": True}, "group_size": 4}
    recipe = resolve({**raw, "mixture": [{**game, "filters": {"zero_variance": True}, "max_tokens": 7}]})
    assert list(recipe.sources) == ["sort_characters", "g"]
    own, other = recipe.sources.values()
    assert own.algorithm == recipe.algorithm and own.environment == recipe.environment
    assert (other.algorithm.group_size, other.sampling.max_tokens) == (4, 7) and other.algorithm.filters.zero_variance
    assert other.algorithm.loss == recipe.algorithm.loss and other.environment.name == "game"
    assert not recipe.only_foreign_environments


def test_unknown_key_names_its_path_and_the_nearest(raw: dict[str, Any]) -> None:
    assert "algorithm.loss.clip_hi: unknown key; did you mean algorithm.loss.clip_high?" in problems(
        raw, "algorithm.loss.clip_hi=0.3"
    )
    assert "lerner: unknown key; did you mean learner?" in problems(raw, "lerner.ranks=2")


def test_wrong_types_and_ranges_are_named(raw: dict[str, Any]) -> None:
    text = problems(raw, "algorithm.steps=many", "sampling.top_p=1.5")
    assert "algorithm.steps" in text and "'many'" in text
    assert "sampling.top_p" in text and "1.5" in text


def test_an_alert_on_a_metric_that_nothing_reports_names_the_nearest(raw: dict[str, Any]) -> None:
    assert "telemetry.alerts.0: 'rl.policy.clipshare' is no metric of a step; did you mean 'rl.policy.clip_share'?" in (
        problems(raw, "telemetry.alerts=[{metric: rl.policy.clipshare, above: 0.5}]")
    )
    assert "did you mean" in problems(raw, "telemetry.alerts=[{metric: rl.tasks.pending, above: 9}]")
    one = "{metric: rl.reward.component.parsed, below: 0.1}, {metric: rl.staleness.share.2, above: 0.5}"
    assert len(resolve(raw, [f"telemetry.alerts=[{one}]"]).telemetry.alerts) == 2


def test_choices_are_listed(raw: dict[str, Any]) -> None:
    assert "did you mean 'token'" in problems(raw, "algorithm.loss.normalisation=tokens")
    assert "ppo_clip, cispo" in problems(raw, "algorithm.loss.name=ppo")


def test_the_transformers_backend_refuses_what_it_does_not_have(raw: dict[str, Any]) -> None:
    backend = "learner.backend=transformers"
    for sizes in ("pipeline=2", "context=2", "sequence_parallel=true", "virtual_stages=2"):
        key, _, value = sizes.partition("=")
        text = problems(raw, backend, "learner.ranks=2", f"learner.parallel.{sizes}")
        assert f"learner.parallel.{key}: {value.capitalize()} needs" in text
        assert "learner.backend=megatron" in text
    assert "always overlaps (FSDP2)" in problems(raw, backend, "learner.parallel.overlap=true")
    cut = (backend, "learner.parallel.tensor=2")
    assert "learner.ranks: 3 is not a multiple of learner.parallel.tensor = 2" in problems(raw, *cut, "learner.ranks=3")
    adapted = problems(raw, *cut, "learner.ranks=2", "learner.lora.rank=4")
    assert "learner.parallel.tensor: 2 with learner.lora needs learner.backend=megatron" in adapted
    assert resolve(raw, (*cut, "learner.ranks=4")).learner.parallel.tensor == 2
    assert resolve(raw, (backend, "learner.ranks=3")).learner.backend == "transformers"


def test_muons_state_stays_on_the_device(raw: dict[str, Any]) -> None:
    muon = ("learner.optimizer.name=muon", "learner.offload=[optimizer]")
    assert "learner.offload: the state of adamw alone can be kept on the host" in problems(raw, *muon)


def test_a_reference_that_is_not_kept_is_not_offloaded(raw: dict[str, Any]) -> None:
    offload = "learner.offload=[optimizer, reference]"
    assert "compares with no reference, so none is kept; leave 'reference' out" in problems(raw, offload)
    compares = "algorithm.loss.kl.coefficient=0.1"
    assert "the frozen model is its own reference" in problems(raw, offload, compares, "learner.lora.rank=4")
    assert resolve(raw, (offload, compares)).learner.offload == ("optimizer", "reference")


def test_an_architecture_that_megatron_does_not_train_is_sent_to_the_other_backend(raw: dict[str, Any]) -> None:
    pathlib.Path(raw["model"]["path"], "config.json").write_text('{"architectures": ["MistralForCausalLM"]}')
    text = problems(raw)
    assert "megatron does not train MistralForCausalLM, only LlamaForCausalLM" in text
    assert "use learner.backend=transformers" in text
    assert resolve(raw, ("learner.backend=transformers",)).learner.ranks == 1


def test_sizes_that_do_not_share_out_experts(raw: dict[str, Any]) -> None:
    config = pathlib.Path(raw["model"]["path"], "config.json")
    dense = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 251,
    }
    config.write_text(json.dumps(dense))
    assert "learner.parallel.expert: 2 is for a mixture" in problems(
        raw, "learner.parallel.expert=2", "learner.ranks=2"
    )
    mixture = {"num_local_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    config.write_text(json.dumps(dense | mixture))
    text = problems(raw, "learner.parallel.expert=4", "learner.ranks=2")
    assert "4 does not divide the model's num_experts, 6" in text
    assert "4 does not divide the ranks of a pipeline stage, 2" in text
    text = problems(raw, "learner.parallel.tensor=2", "learner.ranks=2")
    assert "needs sequence_parallel=true and expert > 1 (they are false and 1)" in text
    assert "learner.lora.targets: gate_up, down are experts" in problems(raw, "learner.lora.rank=4")
    good = ("learner.parallel.tensor=2", "learner.parallel.sequence_parallel=true", "learner.parallel.expert=2")
    assert resolve(raw, (*good, "learner.ranks=2")).learner.parallel.expert == 2


def test_contradictory_parallel_sizes(raw: dict[str, Any]) -> None:
    text = problems(raw, "learner.ranks=3", "learner.parallel.tensor=2")
    assert "learner.ranks: 3 is not a multiple" in text and "nearest valid value is 2" in text
    assert "sequence_parallel: needs" in problems(raw, "learner.parallel.sequence_parallel=true")


def test_uncorrected_asynchronous_run_is_refused(raw: dict[str, Any]) -> None:
    assert "neither an off-policy correction" in problems(raw, "algorithm.loss.correction=none")
    assert resolve(raw, ["algorithm.loss.correction=none", "staleness.max_versions=0"])
    assert resolve(raw, ["algorithm.loss.correction=none", "staleness.allow_uncorrected=true"])


def test_missing_files_are_named(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    assert "data.eval: no file './nowhere.jsonl'" in problems(raw, "data.eval=./nowhere.jsonl")
    (tmp_path / "model" / "config.json").unlink()
    assert "is not a Hugging Face model directory" in problems(raw)


def test_a_dumped_recipe_is_the_same_recipe(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    recipe = resolve(raw, ["environment.rewards=[{name: a, weight: 0.5}]"])
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    assert load(tmp_path / "recipe.yaml") == recipe


def test_a_recipe_can_begin_with_another(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """Mappings are merged, lists and values replaced, over any number of files; overrides come last."""
    raw["environment"] = {"name": "sort_characters", "rewards": [{"name": "a"}, {"name": "b"}]}
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "second.yaml").write_text("base: first.yaml\nalgorithm: {loss: {name: cispo, cap: 4.0}}\n")
    (tmp_path / "below").mkdir()
    third = tmp_path / "below" / "third.yaml"
    third.write_text("base: ../second.yaml\nalgorithm: {loss: {cap: 3.0}}\nenvironment: {rewards: [{name: c}]}\n")
    recipe = load(third, ["run=mine"])
    assert (recipe.algorithm.loss.name, recipe.algorithm.loss.cap, recipe.algorithm.steps) == ("cispo", 3.0, 3)
    assert [r.name for r in recipe.rewards()] == ["c"] and recipe.run == "mine"
    assert recipe.environment is not None and recipe.environment.name == "sort_characters"


def test_a_base_that_cannot_be_used_is_named(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    (tmp_path / "first.yaml").write_text("base: second.yaml\n")
    (tmp_path / "second.yaml").write_text("base: first.yaml\n")
    with pytest.raises(RecipeError, match="base: 'first.yaml' leads back to itself"):
        load(tmp_path / "first.yaml")
    (tmp_path / "third.yaml").write_text("base: fist.yaml\n")
    with pytest.raises(RecipeError, match="no file .*; did you mean 'first.yaml'"):
        load(tmp_path / "third.yaml")
    (tmp_path / "fourth.yaml").write_text("base: [a]\n")
    with pytest.raises(RecipeError, match="must be the name of a recipe file"):
        load(tmp_path / "fourth.yaml")


def test_unreadable_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match="is not YAML"):
        load(tmp_path / "bad.yaml")


def test_sampling_that_the_learner_cannot_follow_is_refused(raw: dict[str, Any]) -> None:
    assert "has no log-probabilities" in problems(raw, "sampling.temperature=0")
    assert "biases ratio and correction" in problems(raw, "sampling.top_k=5")
    assert "gives the reward itself" in problems(raw, "environment.multi_turn=true", "environment.rewards=[{name: a}]")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["algorithm.loss.name=ppo_clop"], "'ppo_clop' is not one of ppo_clip, .*did you mean 'ppo_clip'"),
        (["algorithm.loss.name=dppo"], "loss.correction: dppo is taken against the behaviour policy.*use 'none'"),
        (
            ["algorithm.loss.name=dro", "algorithm.loss.correction=none"],
            "loss.beta: is required for dro",
        ),
        (["algorithm.advantage=gdpo"], "gdpo needs at least two environment.rewards"),
        (["algorithm.advantage=gdpo", "algorithm.truncated_scale=0.5"], "make being cut off one of its parts"),
        (["algorithm.overlong_buffer=300"], "overlong_buffer: 300 is more than sampling.max_tokens 256"),
        (["algorithm.name=dpo", "algorithm.preference.pairs_per_group=5"], "8 answers make 4 pairs.*use 10 or more"),
        (["algorithm.name=dpo", "algorithm.preference.loss=sigmoit"], "did you mean 'sigmoid'"),
        (
            ["algorithm.name=dpo", "algorithm.preference={loss: ipo, label_smoothing: 0.1}"],
            "label_smoothing: ipo has none",
        ),
        (["algorithm.name=dpo", "algorithm.preference={loss: kto, importance_cap: 2.0}"], "leave it out for kto"),
        (["algorithm.name=dpo", "algorithm.loss.mini_batches=2"], "a preference batch is one optimizer step"),
        (["mixture=[{name: sort_characters, data: {train: x}, environment: {name: b}}]"], "another source's name"),
        (["mixture=[{name: b, data: {train: x}, environment: {name: b}}]"], "mixture.0: data.train: no file 'x'"),
        (
            ["mixture=[{name: b, data: {train: x}, environment: {name: b}, group_size: 1}]"],
            "mixture.0: algorithm.group",
        ),
        (["algorithm.name=sft", "mixture=[{name: b, data: {train: x}, environment: {name: b}}]"], "join the files"),
        (
            ["learner.optimizer.name=muon", "learner.lora.rank=4"],
            "learner.optimizer.name: muon makes the step of a whole",
        ),
        (["algorithm.name=sft", "data.curriculum.focus=1.0"], "data.curriculum: chooses rows by how the policy was"),
        (["algorithm.loss.proximal=interpolate"], "saves a forward pass only where .*mini_batches > 1"),
        (
            ["algorithm.loss={proximal: interpolate, mini_batches: 2, correction: m2po}"],
            "m2po sees the whole batch before the step",
        ),
        (["mode=evaluate"], "data.eval and environment: are both required to evaluate"),
    ],
)
def test_methods_that_contradict_themselves_are_refused(raw: dict[str, Any], overrides: list[str], words: str) -> None:
    assert re.search(words, problems(raw, *overrides), re.DOTALL)


def test_a_preference_run_from_a_data_set_needs_no_environment(raw: dict[str, Any]) -> None:
    del raw["environment"]
    offline = resolve(raw, ["algorithm.name=dpo", "algorithm.preference.source=dataset", "algorithm.group_size=2"])
    assert not offline.rolls_out and not offline.generates
    assert "environment: is required for algorithm.name dpo" in problems(raw, "algorithm.name=dpo")


@pytest.mark.parametrize(("text", "value"), [("2e-4", 2e-4), ("1E5", 1e5), (".5e1", 5.0), ("3.0e-4", 3e-4), ("7", 7.0)])
def test_numbers_are_read_as_people_write_them(raw: dict[str, Any], text: str, value: float) -> None:
    assert resolve(raw, [f"learner.optimizer.learning_rate={text}"]).learner.optimizer.learning_rate == value


def test_a_reward_is_served_by_a_model_or_at_an_address_not_both(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    model = str(tmp_path / "model")
    raw["environment"]["rewards"] = [{"name": "helpful", "model": {"path": model}, "address": "h:1"}]
    assert "environment.rewards helpful: has both address and model" in problems(raw)
    raw["environment"]["rewards"] = [{"name": "helpful", "model": {"path": model + "s"}}]
    assert "environment.rewards helpful: model.path: no directory" in problems(raw)
    raw["environment"]["rewards"] = [{"name": "helpful", "model": {"path": model}}]
    recipe = resolve(raw)
    assert recipe.only_foreign_environments and recipe.reward_models["helpful"].path == model


def test_two_models_need_two_names(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    model = {"path": str(tmp_path / "model")}
    raw["environment"]["rewards"] = [
        {"name": "helpful", "model": model},
        {"name": "helpful", "model": {**model, "dtype": "bfloat16"}},
    ]
    assert "environment.rewards helpful: names two models" in problems(raw)


def test_a_reward_models_versions_are_whole(raw: dict[str, Any]) -> None:
    del raw["environment"]
    settings = ("algorithm.name=reward_model", "learner.lora={publish: adapters}")
    assert "learner.lora.publish: a reward model's score is trained whole" in problems(raw, *settings)


def test_two_sources_cannot_mean_two_models_by_one_name(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    model = {"path": str(tmp_path / "model")}
    raw["environment"]["rewards"] = [{"name": "helpful", "model": model}]
    other = {"name": "b", "rewards": [{"name": "helpful", "model": {**model, "dtype": "bfloat16"}}]}
    raw["mixture"] = [{"name": "b", "data": raw["data"], "environment": other}]
    assert "mixture: the reward 'helpful' names two models; give each a name of its own" in problems(raw)
    other["rewards"] = [{"name": "helpful", "model": model}]
    assert set(resolve(raw).reward_models) == {"helpful"}


def test_evaluations_measure_a_part_that_exists(raw: dict[str, Any]) -> None:
    raw["environment"]["rewards"] = [{"name": "format"}, {"name": "sort_characters", "weight": 0.0}]
    assert (
        "evaluation.reward: 'sort_character' is not one of format, sort_characters; did you mean 'sort_characters'?"
        in (problems(raw, "evaluation.reward=sort_character"))
    )
    assert resolve(raw, ["evaluation.reward=sort_characters"]).evaluation.reward == "sort_characters"


def test_a_reward_model_is_trained_from_ranked_answers_alone(raw: dict[str, Any]) -> None:
    text = problems(raw, "algorithm.name=reward_model", "algorithm.group_size=1", "algorithm.loss.mini_batches=2")
    assert "environment: a reward model writes no answers to be scored" in text
    assert "algorithm.group_size: 1 answer is ranked against none" in text
    assert "algorithm.loss.mini_batches" in text
    raw.pop("environment")
    recipe = resolve(raw, ["algorithm.name=reward_model", "algorithm.group_size=2"])
    assert recipe.trains_reward_model and not recipe.generates and not recipe.rolls_out


@pytest.mark.parametrize(("every", "steps"), [(0, [0, 10]), (4, [0, 4, 8, 10]), (5, [0, 5, 10]), (20, [0, 10])])
def test_the_first_and_the_last_version_are_always_evaluated(
    every: int, steps: list[int], raw: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    overrides = ["algorithm.steps=10", f"data.eval={tmp_path / 'train.jsonl'}", f"evaluation.every={every}"]
    recipe = resolve(raw, overrides)
    assert recipe.evaluation_steps == steps and recipe.evaluates and not recipe.validates


def test_rows_are_measured_by_the_learner_where_nobody_plays_them(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    held_out = f"data.eval={tmp_path / 'train.jsonl'}"
    assert "evaluation.target_loss: is for sft, dpo and reward_model" in problems(
        raw, held_out, "evaluation.target_loss=1.0"
    )
    raw.pop("environment")
    recipe = resolve(raw, ["algorithm.name=sft", held_out, "evaluation.target_loss=1.0"])
    assert recipe.validates and not recipe.evaluates and recipe.evaluation_steps == [0, 3]
    assert resolve(raw, ["algorithm.name=sft"]).evaluation_steps == []
    assert "evaluation.target_reward: nothing is played here" in problems(
        raw, "algorithm.name=sft", held_out, "evaluation.target_reward=1.0"
    )


def test_a_critic_needs_no_group_and_takes_no_group_settings(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    gae = "algorithm.advantage=gae"
    recipe = resolve(raw, [gae, "algorithm.group_size=1"])
    assert recipe.has_critic and not resolve(raw).has_critic
    text = problems(
        raw,
        gae,
        "algorithm.group_size=1",
        "algorithm.filters.zero_variance=true",
        "algorithm.advantage_clip=2.0",
        "algorithm.critic.warmup_steps=3",
        "algorithm.critic.path=./nowhere",
        "algorithm.loss.kl={coefficient: 0.1, place: reward}",
    )
    for words in (
        "algorithm.filters.zero_variance: one answer has no variance",
        "algorithm.advantage_clip: a critic's advantages are whitened",
        "algorithm.critic.warmup_steps: 3 of 3 steps leave none for the policy",
        "algorithm.critic.path: no directory './nowhere'",
        "algorithm.loss.kl.place: 'reward' takes the penalty off group baselines",
    ):
        assert words in text
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"vocab_size": 9}')
    assert "algorithm.critic.path: its vocabulary has 9 tokens, that of model.path None" in problems(
        raw, gae, f"algorithm.critic.path={tmp_path / 'other'}"
    )
    raw["mixture"] = [{"name": "b", "data": raw["data"], "environment": {"name": "b"}, "advantage": "grpo"}]
    assert "mixture: a critic values all sources or none" in problems(raw, gae)
