"""Choices that contradict each other are refused with a way out."""

import pathlib
import re
from typing import Any

import pytest

from penstock.recipes import resolve
from penstock.recipes.refusals_testing import problems


def test_uncorrected_asynchronous_run_is_refused(raw: dict[str, Any]) -> None:
    assert "neither an off-policy correction" in problems(raw, "algorithm.loss.correction=none")
    assert resolve(raw, ["algorithm.loss.correction=none", "staleness.max_versions=0"])
    assert resolve(raw, ["algorithm.loss.correction=none", "staleness.allow_uncorrected=true"])


def test_sampling_that_the_learner_cannot_follow_is_refused(raw: dict[str, Any]) -> None:
    assert "has no log-probabilities" in problems(raw, "sampling.temperature=0")
    assert "biases ratio and correction" in problems(raw, "sampling.top_k=5")
    assert "gives the reward itself" in problems(raw, "environment.multi_turn=true", "environment.rewards=[{name: a}]")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["algorithm.loss.name=ppo_clop"], "'ppo_clop' is not one of ppo_clip, .*did you mean 'ppo_clip'"),
        (
            ["algorithm.loss={name: dppo, correction: tis}"],
            "loss.correction: dppo is taken against the behaviour policy.*use 'none'",
        ),
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
            "label_smoothing: ipo does not use it; it uses beta",
        ),
        (["algorithm.name=dpo", "algorithm.preference={loss: kto, importance_cap: 2.0}"], "leave it out for kto"),
        (
            ["algorithm.name=dpo", "algorithm.preference.loss=kto", "algorithm.groups_per_step=1"],
            "groups_per_step: kto estimates its baseline from answers to other prompts; use 2 or more",
        ),
        (
            ["algorithm.name=dpo", "algorithm.loss.mini_batches=2"],
            "a batch of preferences is one optimizer step; use 1",
        ),
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


def test_a_reward_is_served_by_a_model_or_at_an_address_not_both(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    model = str(tmp_path / "model")
    raw["environment"]["rewards"] = [{"name": "helpful", "model": {"path": model}, "address": "h:1"}]
    assert "environment.rewards helpful: has both address and model" in problems(raw)
    raw["environment"]["rewards"] = [{"name": "helpful", "model": {"path": model + "s"}}]
    assert "environment.rewards helpful: model.path: no directory" in problems(raw)
    raw["environment"]["rewards"] = [{"name": "helpful", "model": {"path": model}}]
    recipe = resolve(raw)
    assert recipe.only_foreign_environments and recipe.reward_models["helpful"].path == model


def test_a_judge_can_be_asked_and_read(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    judge: dict[str, Any] = {"path": str(tmp_path / "model")}
    raw["environment"]["rewards"] = [{"name": "good", "judge": judge}]
    recipe = resolve(raw)
    assert recipe.only_foreign_environments and recipe.judges["good"].marks == (0, 10)
    judge.update(prompt="Good?", read="Score", marks=[5, 5], max_tokens=64, max_context=64)
    raw["environment"]["rewards"][0]["address"] = "h:1"
    text = problems(raw)
    for words in (
        "good: has both address and judge",
        "judge.prompt: has no {completion}",
        "judge.read: 'Score' has no group",
        "judge.marks: 5 is not below 5",
        "judge.max_tokens: 64 leaves no room in max_context 64",
    ):
        assert f"environment.rewards {words}" in text or f"environment.rewards good: {words}" in text
    judge.update(read="(", path="nowhere")
    assert "judge.read: '(' is no regular expression" in problems(raw) and "judge.path: no directory" in problems(raw)


def test_two_models_need_two_names(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    model = {"path": str(tmp_path / "model")}
    raw["environment"]["rewards"] = [
        {"name": "helpful", "model": model},
        {"name": "helpful", "model": {**model, "dtype": "bfloat16"}},
    ]
    assert "environment.rewards helpful: names two models" in problems(raw)


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
