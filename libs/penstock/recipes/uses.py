"""Who reads a key: a row for every key of the sections in which choices leave keys unread.

A recipe means what it says, so a key without effect is refused (`checks/unread.py`). A test fails for a key of these
sections that has no row; what losses and their like take is in `choices.py`, which a test holds to the functions.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.recipes.choices import (
    ADVANTAGES,
    CORRECTIONS,
    DRAFTS,
    LOSSES,
    PREFERENCES,
    Parameters,
    advantage_choice,
    correction_choice,
    loss_choice,
    preference_choice,
)
from penstock.recipes.recipe import Recipe

COVERED = ("algorithm", "teacher", "learner.optimizer", "learner.checkpoints", "generation.speculative")
"""The sections whose every key has a row."""


@dataclass(frozen=True)
class Use:
    """reads: whether the recipe's choices read the key. otherwise: the rest of the sentence where they do not; empty
    for the usual one, which names the method and what it reads of the section."""

    reads: Callable[[Recipe], bool]
    otherwise: Callable[[Recipe], str] = lambda r: ""


def listed(names: Iterable[str]) -> str:
    """As words."""
    return ", ".join(names) or "none"


# What recipes are asked. A method that learns from tokens' advantages reads all of a policy loss.


def divergence(r: Recipe) -> bool:
    """Whether the loss is the divergence from what a teacher named, and nothing of a policy gradient."""
    return r.method.name == "distillation" and r.teacher is not None and r.teacher.top > 0


def _gradient(r: Recipe) -> bool:
    return r.method.name in ("policy_gradient", "critic", "distillation") and not divergence(r)


def _of(*methods: str) -> Callable[[Recipe], bool]:
    return lambda r: r.method.name in methods


def _paired(r: Recipe) -> bool:
    return r.method.name == "preference" and preference_choice(r.algorithm.preference.loss).paired


def _parameters(
    section: str,
    prefix: str,
    table: Mapping[str, Any],
    chosen: Callable[[Recipe], tuple[str, Parameters]],
    method: Callable[[Recipe], bool],
) -> dict[str, Use]:
    """Rows of the parameters that the choices of one table take."""

    def row(parameter: str) -> Use:
        def otherwise(r: Recipe) -> str:
            name, own = chosen(r)
            return f"{name} does not use it; it uses {listed(prefix + k for k in own)}" if method(r) else ""

        return Use(lambda r: method(r) and parameter in chosen(r)[1], otherwise)

    names = dict.fromkeys(p for choice in table.values() for p in choice.parameters)
    return {f"{section}.{prefix}{p}": row(p) for p in names}


def _loss(r: Recipe) -> tuple[str, Parameters]:
    return r.algorithm.loss.name, loss_choice(r.algorithm.loss.name).parameters


def _correction(r: Recipe) -> tuple[str, Parameters]:
    return r.algorithm.loss.correction, correction_choice(r.algorithm.loss.correction).parameters


def _preference(r: Recipe) -> tuple[str, Parameters]:
    return r.algorithm.preference.loss, preference_choice(r.algorithm.preference.loss).parameters


def _drafts(r: Recipe) -> tuple[str, Parameters]:
    assert r.generation.speculative is not None, "asked of what a recipe says"
    return r.generation.speculative.method, DRAFTS[r.generation.speculative.method].parameters


def _rows(section: str, use: Use, *names: str) -> dict[str, Use]:
    return {f"{section}.{name}": use for name in names}


def _by_parts(instead: str) -> Callable[[Recipe], str]:
    def otherwise(r: Recipe) -> str:
        parted = advantage_choice(r.algorithm.advantage).by_parts and r.method.name == "policy_gradient"
        return f"{r.algorithm.advantage} takes the reward apart; {instead}" if parted else ""

    return otherwise


def _clips(r: Recipe) -> bool:
    return r.method.name != "critic" and _gradient(r)


def _shapes(r: Recipe) -> bool:
    parted = advantage_choice(r.algorithm.advantage).by_parts
    return r.method.name == "critic" or (r.method.name == "policy_gradient" and not parted)


def _pulls(r: Recipe) -> bool:
    return _gradient(r) and r.algorithm.loss.kl.coefficient > 0


def _weighs(r: Recipe) -> bool:
    return _gradient(r) and correction_choice(r.algorithm.loss.correction).weighs


def _apart(r: Recipe) -> bool:
    return _gradient(r) and r.algorithm.loss.proximal != "behaviour"


def _rejects(r: Recipe) -> bool:
    return _apart(r) and r.algorithm.loss.rejection.by != "none"


def _muon(r: Recipe) -> bool:
    return r.learner.optimizer.name == "muon"


def _weighs_pairs(r: Recipe) -> bool:
    return _by_pair(r) and r.algorithm.preference.source == "rollouts" and r.sampling.temperature == 1


def _by_pair(r: Recipe) -> bool:
    return _paired(r) and all(preference_choice(each.loss).by_pair for each in r.algorithm.preference.losses)


def _measures(r: Recipe) -> bool:
    return _paired(r) and all(preference_choice(each.loss).divergence for each in r.algorithm.preference.losses)


_ALWAYS = Use(lambda r: True)
_ONE_STEP = Use(
    lambda r: r.method.name not in ("preference", "reward_model"),
    lambda r: (
        f"a batch of {'preferences' if r.algorithm.name == 'dpo' else 'ranked answers'} is one optimizer step; use 1"
    ),
)
USES: Mapping[str, Use] = {
    "algorithm.router_coefficient": _ALWAYS,
    **_rows("algorithm", _ALWAYS, "name", "steps", "groups_per_step", "group_size", "min_group_fraction"),
    "algorithm.advantage": Use(lambda r: r.algorithm.name == "grpo"),
    "algorithm.advantage_settings": Use(
        lambda r: (
            r.method.name == "policy_gradient"
            and (r.algorithm.advantage not in ADVANTAGES or bool(ADVANTAGES[r.algorithm.advantage].parameters))
        ),
        lambda r: f"{r.algorithm.advantage} has no settings" if r.algorithm.name == "grpo" else "",
    ),
    "algorithm.reward_scale": Use(_shapes, _by_parts("give its parts weights instead")),
    "algorithm.branch_discount": Use(
        lambda r: (
            r.method.name in ("policy_gradient", "critic") and _shapes(r) and any(e.agent for e in r.environments)
        ),
        lambda r: "" if any(e.agent for e in r.environments) else "only samples of agents have several contexts",
    ),
    "algorithm.overlong_buffer": Use(_shapes, _by_parts("make length one of its parts")),
    "algorithm.truncated_scale": Use(_shapes, _by_parts("make being cut off one of its parts")),
    "algorithm.advantage_clip": Use(
        _clips,
        lambda r: "a critic's advantages are whitened in the learner; leave it out" if r.method.critic else "",
    ),
    **_rows("algorithm.filters", Use(_of("policy_gradient", "critic")), "zero_variance", "pass_rate_min"),
    **_rows("algorithm.filters", Use(_of("policy_gradient", "critic")), "pass_rate_max", "own"),
    "algorithm.filters.truncated": Use(lambda r: r.rolls_out),
    **_rows("algorithm.loss", Use(_gradient), "name", "proximal", "correction", "entropy_coefficient"),
    "algorithm.loss.mismatch_limit": Use(
        _gradient,
        lambda r: "with teacher.top the loss has no ratio to the engine; leave it out" if divergence(r) else "",
    ),
    "algorithm.loss.normalisation": Use(lambda r: _gradient(r) or divergence(r) or r.algorithm.name == "sft"),
    "algorithm.loss.mini_batches": _ONE_STEP,
    "algorithm.loss.settings": Use(
        lambda r: _gradient(r) and r.algorithm.loss.name not in LOSSES,
        lambda r: f"{_loss(r)[0]} is none of your own; it uses {listed(_loss(r)[1])}" if _gradient(r) else "",
    ),
    **_parameters("algorithm.loss", "", LOSSES, _loss, _gradient),
    "algorithm.loss.correction_settings": Use(
        lambda r: _gradient(r) and r.algorithm.loss.correction not in CORRECTIONS,
        lambda r: (
            f"{_correction(r)[0]} is none of your own; it uses {listed('correction_' + k for k in _correction(r)[1])}"
            if _gradient(r)
            else ""
        ),
    ),
    **_parameters("algorithm.loss", "correction_", CORRECTIONS, _correction, _gradient),
    "algorithm.loss.correction_mean_one": Use(
        _weighs,
        lambda r: f"{r.algorithm.loss.correction} has no weights but 0 and 1; leave it out" if _gradient(r) else "",
    ),
    "algorithm.loss.top_entropy": Use(_gradient),
    "algorithm.loss.rejection.by": Use(
        _apart,
        lambda r: "with proximal behaviour engine and learner are one: nothing is rejected" if _gradient(r) else "",
    ),
    "algorithm.loss.rejection.high": Use(_rejects, lambda r: "nothing is rejected; set by" if _gradient(r) else ""),
    "algorithm.loss.rejection.low": Use(
        lambda r: _rejects(r) and r.algorithm.loss.rejection.by.endswith("k1"),
        lambda r: f"{r.algorithm.loss.rejection.by} does not use it; forms of k1 do" if _gradient(r) else "",
    ),
    "algorithm.loss.kl.coefficient": Use(_gradient),
    "algorithm.loss.kl.place": Use(_pulls, lambda r: "coefficient is 0: there is no KL term" if _gradient(r) else ""),
    **_rows(
        "algorithm.loss.kl",
        Use(
            lambda r: _pulls(r) and r.algorithm.loss.kl.place == "loss",
            lambda r: "there is no KL term in the loss; set coefficient, with place loss" if _gradient(r) else "",
        ),
        "estimator",
        "importance",
        "log_ratio_limit",
        "value_limit",
    ),
    **_rows("algorithm.preference", Use(_of("preference")), "source", "loss", "nll_coefficient"),
    **_parameters("algorithm.preference", "", PREFERENCES, _preference, _of("preference")),
    "algorithm.preference.settings": Use(
        lambda r: r.method.name == "preference" and r.algorithm.preference.loss not in PREFERENCES,
        lambda r: (
            f"{_preference(r)[0]} is none of your own; it uses {listed(_preference(r)[1])}"
            if r.method.name == "preference"
            else ""
        ),
    ),
    **_rows("algorithm.preference", Use(_paired), "pairs_per_group", "min_margin", "weight", "more"),
    "algorithm.preference.divergence": Use(_measures),
    "algorithm.preference.length_share": Use(_paired),
    "algorithm.preference.wpo": Use(
        _by_pair, lambda r: "weighs pairs; leave it out for kto and aot" if r.method.name == "preference" else ""
    ),
    "algorithm.preference.nll_normalisation": Use(
        lambda r: r.method.name == "preference" and r.algorithm.preference.nll_coefficient > 0,
        lambda r: "there is no likelihood term; set nll_coefficient" if r.method.name == "preference" else "",
    ),
    "algorithm.preference.divergence_order": Use(
        lambda r: _measures(r) and r.algorithm.preference.divergence == "alpha",
        lambda r: "is the order of divergence alpha",
    ),
    "algorithm.preference.importance_cap": Use(
        _weighs_pairs,
        lambda r: (
            "weighs pairs that the policy drew at sampling.temperature 1; leave it out for kto and aot, for a "
            "dataset and at other temperatures"
        ),
    ),
    "algorithm.reference.sync_every": Use(
        lambda r: r.compares_with_reference, lambda r: "nothing is compared with a reference; leave it out"
    ),
    "algorithm.reference.mix": Use(
        lambda r: r.compares_with_reference and r.algorithm.reference.sync_every is not None,
        lambda r: "the reference does not move; set sync_every",
    ),
    **_rows("algorithm.reward_model", Use(_of("reward_model")), "margin", "centring", "min_margin"),
    **_rows("algorithm.critic", Use(_of("critic")), "path", "learning_rate", "discount", "decay", "clip"),
    **_rows("algorithm.critic", Use(_of("critic")), "warmup_steps", "whiten"),
    **_rows("teacher", _ALWAYS, "path", "top", "dtype", "replicas", "memory_gib", "gpu_memory_fraction", "tensor"),
    "teacher.threads": _ALWAYS,
    "teacher.divergence": Use(divergence, lambda r: "is of the loss over the teacher's likeliest tokens; set top"),
    "generation.speculative.method": _ALWAYS,
    **_parameters("generation.speculative", "", DRAFTS, _drafts, lambda r: True),
    **_rows("learner.optimizer", _ALWAYS, "name", "learning_rate", "schedule", "warmup_steps", "weight_decay"),
    **_rows("learner.optimizer", _ALWAYS, "beta1", "beta2", "epsilon", "clip_gradient", "max_skipped"),
    **_rows(
        "learner.optimizer",
        Use(_muon, lambda r: f"{r.learner.optimizer.name} does not use it; muon does"),
        "momentum",
        "rate_adjustment",
    ),
    "learner.optimizer.decay_steps": Use(
        lambda r: r.learner.optimizer.schedule == "wsd",
        lambda r: f"schedule {r.learner.optimizer.schedule} does not use it; wsd does",
    ),
    "learner.optimizer.final_ratio": Use(
        lambda r: r.learner.optimizer.schedule != "constant",
        lambda r: "schedule constant does not use it; linear, cosine and wsd do",
    ),
    **_rows("learner.checkpoints", _ALWAYS, "every", "keep", "keep_best", "background"),
    **_rows(
        "learner.checkpoints",
        Use(lambda r: r.learner.checkpoints.keep_best > 0, lambda r: "chooses the best checkpoints; set keep_best"),
        "metric",
        "better",
    ),
}
