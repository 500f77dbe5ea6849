"""What comes out is a recipe; what does not is named; nothing is dropped silently."""

import json
import pathlib
from typing import Any

import pytest
import yaml

from penstock.migrate import CannotRead, convert, read
from penstock.migrate.carrying import Given
from penstock.migrate.reading import flat, resolved
from penstock.recipes import Recipe, resolve

NEMO = """
grpo: {num_prompts_per_step: 8, num_generations_per_prompt: 4, max_num_steps: 20, normalize_rewards: true, seed: 3}
loss_fn: {reference_policy_kl_penalty: 0.01, ratio_clip_min: 0.2, ratio_clip_max: 0.28, token_level_loss: true}
policy:
  model_name: MODEL
  train_global_batch_size: ${mul:${grpo.num_prompts_per_step}, 4}
  max_total_sequence_length: 256
  max_grad_norm: 1.0
  generation: {max_new_tokens: "${div:${policy.max_total_sequence_length}, 2}", temperature: 1.0, top_p: 1.0}
  dtensor_cfg: {enabled: true, tensor_parallel_size: 1}
  optimizer: {name: torch.optim.AdamW, kwargs: {lr: 5.0e-6, betas: [0.9, 0.999], eps: 1e-8}}
data: {train: {data_path: ROWS}}
"""
VERL = """
python3 -m verl.trainer.main_ppo \\
  algorithm.adv_estimator=grpo data.train_files=ROWS data.train_batch_size=8 data.max_response_length=64 \\
  data.max_prompt_length=64 actor_rollout_ref.model.path=MODEL actor_rollout_ref.rollout.n=4 \\
  actor_rollout_ref.actor.ppo_mini_batch_size=4 +algorithm.rollout_correction.rollout_is=sequence \\
  trainer.total_training_steps=10 trainer.n_gpus_per_node=1 'trainer.logger=["console"]' $@
"""
TRL: dict[str, dict[str, Any]] = {
    "grpo": {"num_generations": 4, "max_steps": 5, "beta": 0.01, "reward_funcs": ["accuracy"], "use_vllm": True},
    "dpo": {"trainer": "dpo", "max_steps": 5, "loss_type": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.2]},
    "kto": {"trainer": "kto", "max_steps": 5},
    "sft": {"assistant_only_loss": True, "max_steps": 5, "lr_scheduler_type": "cosine"},
    "reward": {"center_rewards_coefficient": 0.01, "max_steps": 5},
    "gkd": {"lmbda": 1.0, "max_steps": 5, "teacher_model_name_or_path": "MODEL"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text("{}")
    (folder / "train.jsonl").write_text("{}\n")
    return folder


def loaded(system: str, text: str, folder: pathlib.Path, model: pathlib.Path) -> tuple[Recipe, tuple[str, ...]]:
    """Of a whole configuration, whose recipe is written and read as a user would."""
    file = folder / "config"
    file.write_text(text.replace("MODEL", str(model)).replace("ROWS", str(model / "train.jsonl")))
    keys, lost = read(file)
    converted = convert(system, keys)
    recipe = yaml.safe_load(yaml.safe_dump(converted.recipe))
    return resolve(recipe, ["environment.name=math"] if converted.said[-1].startswith("environment") else []), (
        *lost,
        *converted.said,
    )


def test_a_whole_nemo_rl_configuration_is_a_recipe(tmp_path: pathlib.Path, model: pathlib.Path) -> None:
    recipe, said = loaded("nemo-rl", NEMO, tmp_path, model)
    assert (recipe.algorithm.groups_per_step, recipe.algorithm.loss.mini_batches) == (8, 1)
    assert recipe.algorithm.loss.kl.estimator == "k2" and recipe.sampling.max_tokens == 128
    assert (recipe.learner.optimizer.beta2, recipe.learner.optimizer.epsilon) == (0.999, 1e-8)
    assert said == ("environment.name: is required and not in the configuration; write who scores (write-a-reward.md)",)


def test_a_whole_verl_command_line_is_a_recipe(tmp_path: pathlib.Path, model: pathlib.Path) -> None:
    recipe, said = loaded("verl", VERL, tmp_path, model)
    assert (recipe.algorithm.loss.correction, recipe.algorithm.loss.mini_batches) == ("tis_sequence", 2)
    assert recipe.algorithm.loss.dual_clip == 3.0 and recipe.algorithm.group_size == 4
    assert [line.split(":")[0] for line in said] == ["environment.name"]


@pytest.mark.parametrize("trainer", TRL)
def test_arguments_of_each_of_trls_trainers_are_a_recipe(
    trainer: str, tmp_path: pathlib.Path, model: pathlib.Path
) -> None:
    given = {"model_name_or_path": "MODEL", "dataset_name": "ROWS", "dataset_train_split": "", **TRL[trainer]}
    given["dataset_name"] = None
    keys = {k: str(model) if v == "MODEL" else v for k, v in given.items()}
    converted = convert("trl", keys)
    made = converted.recipe | {"data": {**converted.recipe["data"], "train": str(model / "train.jsonl")}}
    plays = trainer == "gkd"
    recipe = resolve(made, ["environment.name=math"] if plays else [])
    assert recipe.steps == 5 and recipe.learner.optimizer.beta2 == 0.999
    assert not [line for line in converted.said if "unknown" in line]


def test_unknown_keys_are_named_with_what_they_may_have_been() -> None:
    said = convert("trl", {"trainer": "grpo", "num_generation": 4, "max_stepps": 3}).said
    assert "max_stepps: unknown key; not carried over" in said
    assert any(line.startswith("num_generation: unknown key; did you mean num_generations") for line in said)
    said = convert("verl", {"actor_rollout_ref.actor.ppo_max_token_len_per_gpus": 4}).said
    assert any("did you mean actor_rollout_ref.actor.ppo_max_token_len_per_gpu?" in line for line in said)
    said = convert("nemo-rl", {"grpo.max_num_steps": 3, "policy.modle_name": "x", "mine.own": 1}).said
    assert "mine.own: unknown key; not carried over" in said
    assert "policy.modle_name: unknown key; did you mean policy.model_name?" in said


def test_every_key_is_taken_or_named() -> None:
    """What no table knows is said, whatever system it is of."""
    for system, key in (("trl", "trainer"), ("nemo-rl", "grpo.max_num_steps"), ("verl", "algorithm.adv_estimator")):
        value = {"trl": "grpo", "nemo-rl": 3, "verl": "grpo"}[system]
        said = convert(system, {key: value, "some.thing": 1, "thing": [1]}).said
        assert sum(line.startswith(("some.thing: ", "thing: ")) for line in said) == 2


def test_references_are_resolved_and_those_to_nothing_named() -> None:
    keys = {
        "a.b": 2,
        "a.c": "${.b}",
        "d": "${a.c}",
        "e": "x-${d}",
        "f": "${oc.select:none,7}",
        "g": "${mul:${a.b},3}",
        "h": "${nowhere}",
        "i": "${i}",
        "j": "${odd:1}",
    }
    found, lost = resolved(keys)
    assert (found["a.c"], found["d"], found["e"], found["f"], found["g"]) == (2, 2, "x-2", 7, 6)
    assert [line.split(":")[0] for line in lost] == ["h", "i", "j"] and "no key nowhere" in lost[0]


def test_what_is_no_configuration_is_refused(tmp_path: pathlib.Path) -> None:
    for text in ("", "[1, 2]", "hello", "a: [", "\0"):
        (tmp_path / "x").write_text(text)
        with pytest.raises(CannotRead, match="x: "):
            read(tmp_path / "x")
    with pytest.raises(CannotRead, match="cannot be read"):
        read(tmp_path / "absent")
    (tmp_path / "x").write_text(json.dumps({"a": {"b": 1e-6}, "c.d": None}))
    assert read(tmp_path / "x") == ({"a.b": 1e-6, "c.d": None}, [])
    with pytest.raises(ValueError, match="does not say which trainer"):
        convert("trl", {"learning_rate": 1e-6})
    with pytest.raises(ValueError, match="none of the sections grpo, dpo, sft, rm"):
        convert("nemo-rl", {"policy.model_name": "x"})


def test_given_counts_what_was_taken() -> None:
    given = Given(flat({"a": {"b": 1, "c": None}, "d": 2}))
    assert given.take("a.b") == 1 and given.untaken() == ["a.c", "d"]
    assert given.take_below("a") == {"c": None} and given.take_first("x", "d") == 2 and not given.untaken()
