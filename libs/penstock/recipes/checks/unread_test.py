"""A recipe means what it says: a key without effect is refused, and what it leaves out is what its choices mean."""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from penstock.recipes import Recipe, as_said, dump, resolve
from penstock.recipes.refusals_testing import problems
from penstock.recipes.sections import Checkpoints, Optimizer, Section, Speculative, Teacher
from penstock.recipes.sections.algorithm import Algorithm
from penstock.recipes.uses import USES

ASYNC = "staleness.allow_uncorrected=true"


def keys(path: str, section: Any) -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from keys(f"{path}.{name}", inner)
        else:
            yield f"{path}.{name}"


def test_every_key_of_these_sections_says_who_reads_it() -> None:
    sections: dict[str, Any] = {
        "algorithm": Algorithm,
        "teacher": Teacher,
        "learner.optimizer": Optimizer,
        "learner.checkpoints": Checkpoints,
        "generation.speculative": Speculative,
    }
    assert {key for path, section in sections.items() for key in keys(path, section)} == set(USES)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["algorithm.loss={name: cispo, clip_low: 0.2}"], "loss.clip_low: cispo does not use it; it uses cap"),
        (["algorithm.loss={name: gspo, normalisation: sequence, dual_clip: 3.0}"], "it uses clip_low, clip_high"),
        (["algorithm.loss={name: reinforce, tau: 0.1}"], "loss.tau: reinforce does not use it; it uses none"),
        (["algorithm.loss.cap=5.0"], "loss.cap: ppo_clip does not use it; it uses clip_low, clip_high, dual_clip"),
        (["algorithm.loss.correction_low=0.5"], "correction_low: tis does not use it; it uses correction_cap"),
        (["algorithm.loss={correction: icepop, correction_cap: 2.0}"], "it uses correction_low, correction_high"),
        (["algorithm.loss={correction: none, correction_cap: 2.0}", ASYNC], "none does not use it; it uses none"),
        (
            ["algorithm.loss={correction: icepop, correction_low: 2, correction_high: 2}"],
            "2 must be below correction_hi",
        ),
        (
            ["algorithm.loss={correction: icepop, correction_low: 7}"],
            "correction_low: 7 must be below correction_high 5",
        ),
        (["algorithm.loss={proximal: behaviour, correction: icepop}"], "'icepop' would correct twice; use 'none'"),
        (["algorithm.loss={proximal: behaviour, correction_cap: 3.0}"], "correction_cap: none does not use it"),
        (["algorithm.loss.settings={clip: 1.0}"], "settings: ppo_clip is none of your own; it uses clip_low"),
        (["algorithm.advantage_settings={normalize: 1.0}"], "'normalize' is not one of raw, epsilon"),
        (["algorithm.advantage=dr_grpo", "algorithm.advantage_settings={epsilon: 1.0}"], "dr_grpo has no settings"),
        (["algorithm.loss={correction: opsm, correction_mean_one: tokens}"], "opsm has no weights but 0 and 1"),
        (["algorithm.loss.rejection.high=2.0"], "rejection.high: nothing is rejected; set by"),
        (["algorithm.loss.rejection={by: mean_k3}"], "rejection.high: is required for mean_k3"),
        (["algorithm.loss.rejection={by: mean_k3, high: 1.0, low: 0.1}"], "low: mean_k3 does not use it; forms of k1"),
        (["algorithm.loss.rejection={by: sum_k1, high: 1.0}"], "rejection.low: 1 must be below high 1"),
        (["algorithm.loss={proximal: behaviour, rejection: {by: sum_k1, high: 2.0}}"], "engine and learner are one"),
        (["algorithm.name=sft", "algorithm.loss.top_entropy=0.2"], "top_entropy: algorithm.name sft does not use it"),
        (["algorithm.loss={name: vespo, correction: tis}"], "vespo is taken against the behaviour policy itself"),
        (["algorithm.loss={name: geo_mean, dual_clip: 3.0}"], "geo_mean does not use it; it uses clip_low, clip_high"),
        (
            ["algorithm.loss={proximal: interpolate, mini_batches: 2, correction_mean_one: tokens}"],
            "sees the whole batch before the step",
        ),
        (["algorithm.loss.kl.estimator=k2"], "loss.kl.estimator: there is no KL term in the loss; set coefficient"),
        (
            ["algorithm.loss.kl={coefficient: 0.1, place: reward, estimator: k1}"],
            "kl.estimator: there is no KL term in",
        ),
        (["algorithm.critic.decay=0.9"], "critic.decay: algorithm.advantage batch_norm does not use it; it uses none"),
        (["algorithm.preference.beta=0.3"], "preference.beta: algorithm.advantage batch_norm does not use it"),
        (
            ["algorithm.name=dpo", "algorithm.preference={loss: kto, min_margin: 0.1}"],
            "preference.min_margin: algorithm",
        ),
        (
            ["algorithm.name=dpo", "algorithm.preference={loss: ipo, margin: 0.1}"],
            "margin: ipo does not use it; it uses",
        ),
        (
            ["algorithm.name=dpo", "algorithm.preference.nll_normalisation=sum"],
            "no likelihood term; set nll_coefficient",
        ),
        (
            ["algorithm.name=dpo", "algorithm.preference={loss: kto, length_share: 0.5}"],
            "preference.length_share: algori",
        ),
        (["algorithm.name=dpo", "algorithm.overlong_buffer=8"], "overlong_buffer: algorithm.name dpo does not use it"),
        (["algorithm.name=dpo", "algorithm.loss.name=cispo"], "loss.name: algorithm.name dpo does not use it"),
        (["algorithm.name=dpo", "algorithm.filters.zero_variance=true"], "dpo does not use it; it uses truncated of"),
        (["algorithm.name=sft", "algorithm.advantage=rloo"], "advantage: algorithm.name sft does not use it; it uses"),
        (["algorithm.name=sft", "algorithm.loss.clip_high=0.3"], "sft does not use it; it uses normalisation, mini_ba"),
        (
            ["algorithm.name=dpo", "algorithm.preference={loss: nca, divergence: js}"],
            "preference.divergence: algorithm",
        ),
        (
            ["algorithm.name=dpo", "algorithm.preference.divergence=alpha"],
            "divergence_order: is required for divergence",
        ),
        (["algorithm.name=dpo", "algorithm.preference.divergence_order=0.5"], "is the order of divergence alpha"),
        (
            ["algorithm.name=dpo", "algorithm.preference.more=[{loss: bco, margin: 1.0}]"],
            "algorithm.preference.more.0.margin: bco does not use it; it uses beta",
        ),
        (["algorithm.name=dpo", "algorithm.preference.more=[{loss: kto}]"], "more.0.loss: 'kto' is not one of sigmoid"),
        (["algorithm.name=dpo", "algorithm.preference={loss: exo, label_smoothing: 0.0}"], "exo needs more than 0"),
        (["algorithm.name=dpo", "algorithm.preference={loss: aot, importance_cap: 2}"], "leave it out for kto and aot"),
        (["algorithm.reference.sync_every=2"], "reference.sync_every: nothing is compared with a reference"),
        (["algorithm.loss.kl.coefficient=0.1", "algorithm.reference.mix=0.5"], "the reference does not move; set sync"),
        (
            ["algorithm.loss.kl.coefficient=0.1", "algorithm.reference.sync_every=2", "learner.lora={}"],
            "reference is the model without adapters, which cannot follow",
        ),
        (["algorithm.router_coefficient=0.001", "learner.backend=transformers"], "use learner.backend=megatron"),
        (["algorithm.router_coefficient=0.001", "learner.lora={}"], "with learner.lora the routers are frozen"),
        (
            ["algorithm.router_coefficient=0.001", "learner.ranks=2", "learner.parallel.context=2"],
            "whole sequences on a rank; use learner.parallel.context=1 (it is 2)",
        ),
        (["learner.optimizer.momentum=0.9"], "momentum: adamw does not use it; muon does"),
        (["learner.optimizer.decay_steps=1"], "decay_steps: schedule constant does not use it; wsd does"),
        (["learner.optimizer.final_ratio=0.1"], "final_ratio: schedule constant does not use it"),
        (["learner.optimizer.warmup_steps=3"], "warmup_steps: 3 of 3 steps never reach learning_rate"),
        (["learner.optimizer={schedule: wsd, warmup_steps: 1, decay_steps: 3}"], "3 and 1 of warm-up are more than"),
        (["learner.checkpoints.metric=rl.loss"], "metric: chooses the best checkpoints; set keep_best"),
        (["learner.micro_batch_tokens=2047"], "2047 cannot hold one sample of generation.max_context 2048"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_those_that_are_read(
    raw: dict[str, Any], overrides: list[str], words: str
) -> None:
    assert words in problems(raw, *overrides)


def test_a_choice_brings_its_own_defaults_and_config_prints_what_runs(raw: dict[str, Any]) -> None:
    def printed(*overrides: str) -> Any:
        return yaml.safe_load(dump(resolve(raw, overrides)))["algorithm"]

    loss = printed()["loss"]
    assert (loss["clip_low"], loss["clip_high"], loss["correction_cap"], loss["cap"]) == (0.2, 0.28, 2.0, None)
    loss = printed("algorithm.loss={name: gspo, normalisation: sequence, clip_low: 0.001, correction: icepop}")["loss"]
    assert (loss["clip_low"], loss["clip_high"], loss["correction_low"], loss["correction_cap"]) == (
        1e-3,
        4e-4,
        0.5,
        None,
    )
    assert printed("algorithm.loss.name=dppo")["loss"]["correction"] == "none"
    assert printed("algorithm.loss.proximal=behaviour")["loss"]["correction"] == "none"
    for name, beta in (("sigmoid", 0.1), ("simpo", 2.0), ("length_normalised", 5.0)):
        assert printed("algorithm.name=dpo", f"algorithm.preference.loss={name}")["preference"]["beta"] == beta


def test_what_was_filled_in_makes_room_for_another_choice(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """A finished run's recipe has every default spelled out, and its replay may choose another loss."""
    recipe = resolve(yaml.safe_load(dump(resolve(raw, ["algorithm.loss.clip_high=0.3"]))))
    said: dict[str, Any] = as_said(recipe)
    assert said["algorithm"]["loss"] == {"clip_high": 0.3} and resolve(said) == recipe
    assert "clip_high: cispo does not use it" in problems(said, "algorithm.loss.name=cispo")
    other = resolve(said, ["algorithm.loss={name: cispo, correction: icepop}"]).algorithm.loss
    assert (other.cap, other.correction_high, other.clip_low) == (5.0, 5.0, None)
    dppo = as_said(resolve(raw, ["algorithm.loss.name=dppo"]))
    assert resolve(dppo, ["algorithm.loss.name=ppo_clip"]) == resolve(raw)
    assert isinstance(resolve(dppo), Recipe)


def test_keys_of_a_plugins_choices_are_not_judged(raw: dict[str, Any], tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.py").write_text("")
    own = "algorithm.loss={name: mine, settings: {strength: 2.0}}"
    assert resolve(raw, [own, f"plugins=[{tmp_path / 'mine.py'}]"]).algorithm.loss.parameters == {"strength": 2.0}
