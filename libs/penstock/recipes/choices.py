"""Names that a recipe may choose from: which keys of its section each takes, with its own defaults, and the traits that
checks ask for.

A new loss is a row here, beside its file in penstock.objectives. That library needs torch, which a recipe does not: the
learner's `resolve_test.py` holds the two together, names, parameters, defaults and traits. A name that is not here is a
plugin's: it takes the section's `settings`, and has no trait. A key that the chosen row does not take is refused
(`uses.py`), and one that the recipe leaves out has the row's default, so that `penstock config` prints what runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Parameters = Mapping[str, float | None]
"""Keys with what holds where the recipe says nothing; None is off, or without a usual value."""
EPSILON: Parameters = {"epsilon": 1e-6}


@dataclass(frozen=True)
class LossChoice:
    """A policy loss. `parameters` are keys of algorithm.loss.

    required: parameters without a usual value. trust_region: it bounds the step by itself when the data is off-policy.
    behaviour: it is taken against the behaviour policy itself, so that a correction would correct twice.
    by_advantage: it and its gradient are 0 where the advantage is.
    normalisation: the one that it is defined with, which it has where the recipe names none.
    """

    parameters: Parameters = field(default_factory=dict)
    required: tuple[str, ...] = ()
    trust_region: bool = False
    behaviour: bool = False
    by_advantage: bool = False
    normalisation: str = "token"


@dataclass(frozen=True)
class CorrectionChoice:
    """An off-policy correction. Its parameters are the keys algorithm.loss.correction_<parameter>.

    whole_batch: it sees every sample before the step. weighs: it is no mask, so that its weights have a mean. current:
    it looks at the policy being trained, which nothing before the step can.
    """

    parameters: Parameters = field(default_factory=dict)
    whole_batch: bool = False
    weighs: bool = True
    current: bool = False


@dataclass(frozen=True)
class AdvantageChoice:
    """An advantage. `parameters` are keys of algorithm.advantage_settings.

    needs: the model that values samples, where it is not the group. by_parts: it takes the reward apart. by_length: it
    is told how many tokens answers have.
    """

    parameters: Parameters = field(default_factory=dict)
    needs: str = ""
    by_length: bool = False
    by_parts: bool = False


BETA: Parameters = {"beta": 0.1}


@dataclass(frozen=True)
class PreferenceChoice:
    """A preference loss. `parameters` are keys of algorithm.preference.

    paired: it compares two answers. divergence: other divergences than the reverse KL can be put into it. by_pair: its
    values belong to pairs, so that a pair can be weighed.
    """

    parameters: Parameters = field(default_factory=lambda: BETA)
    reference: bool = True
    paired: bool = True
    divergence: bool = False
    by_pair: bool = True


SMOOTHED: Parameters = {**BETA, "label_smoothing": 0.0}
LOSSES: Mapping[str, LossChoice] = {
    "ppo_clip": LossChoice(
        {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": None}, trust_region=True, by_advantage=True
    ),
    "cispo": LossChoice({"cap": 5.0, "floor": 0.0}, by_advantage=True),
    "gspo": LossChoice(
        {"clip_low": 3e-4, "clip_high": 4e-4}, trust_region=True, by_advantage=True, normalisation="sequence"
    ),
    "geo_mean": LossChoice(
        {"clip_low": 0.4, "clip_high": 0.4}, trust_region=True, by_advantage=True, normalisation="sequence"
    ),
    "reinforce": LossChoice(by_advantage=True),
    "sapo": LossChoice({"tau_positive": 1.0, "tau_negative": 1.05}, trust_region=True, by_advantage=True),
    "dppo": LossChoice({"delta": 0.2, "tau": 1e-3}, behaviour=True),
    "dro": LossChoice({"beta": None}, required=("beta",), behaviour=True),
    "vespo": LossChoice(
        {"power_positive": 2.0, "decay_positive": 3.0, "power_negative": 3.0, "decay_negative": 2.0},
        behaviour=True,
        by_advantage=True,
    ),
}

CORRECTIONS: Mapping[str, CorrectionChoice] = {
    "none": CorrectionChoice(weighs=False),
    "tis": CorrectionChoice({"cap": 2.0}),
    "tis_sequence": CorrectionChoice({"low": 0.0, "cap": 2.0}),
    "icepop": CorrectionChoice({"low": 0.5, "high": 5.0}),
    "icepop_sequence": CorrectionChoice({"low": 0.0, "high": 3.0}),
    "mis_token": CorrectionChoice({"low": 0.5, "high": 2.0}, weighs=False),
    "mis_sequence": CorrectionChoice({"low": 0.5, "high": 2.0}, weighs=False),
    "seq_mask_tis": CorrectionChoice({"cap": 2.0, "low": 0.5, "high": 2.0}),
    "opsm": CorrectionChoice({"limit": 0.5}, weighs=False, current=True),
    "m2po": CorrectionChoice({"limit": 0.04}, whole_batch=True, weighs=False),
}

ADVANTAGES: Mapping[str, AdvantageChoice] = {
    "grpo": AdvantageChoice(EPSILON),
    "dr_grpo": AdvantageChoice(),
    "rloo": AdvantageChoice({"normalise": 0.0, **EPSILON}),
    "reinforce_pp": AdvantageChoice({"baseline": 1.0, "over_tokens": 0.0, **EPSILON}, by_length=True),
    "batch_norm": AdvantageChoice({"raw": 0.0, **EPSILON}),
    "maxrl": AdvantageChoice(EPSILON),
    "opo": AdvantageChoice(by_length=True),
    "gdpo": AdvantageChoice(EPSILON, by_parts=True),
    "opd": AdvantageChoice(needs="teacher"),
    "gae": AdvantageChoice(needs="critic"),
}

PREFERENCES: Mapping[str, PreferenceChoice] = {
    "sigmoid": PreferenceChoice(SMOOTHED, divergence=True),
    "robust": PreferenceChoice(SMOOTHED, divergence=True),
    "hinge": PreferenceChoice(divergence=True),
    "ipo": PreferenceChoice(divergence=True),
    "length_normalised": PreferenceChoice({"beta": 5.0}, divergence=True),
    "exo": PreferenceChoice({**BETA, "label_smoothing": 1e-3}, divergence=True),
    "discopop": PreferenceChoice({**BETA, "tau": 0.05}, divergence=True),
    "nca": PreferenceChoice(),
    "bco": PreferenceChoice(),
    "sppo": PreferenceChoice(),
    "aot": PreferenceChoice(SMOOTHED, by_pair=False),
    "aot_unpaired": PreferenceChoice(SMOOTHED, by_pair=False),
    "apo_zero": PreferenceChoice(),
    "apo_down": PreferenceChoice(),
    "simpo": PreferenceChoice({"beta": 2.0, "margin": 0.5}, reference=False),
    "orpo": PreferenceChoice(reference=False),
    "kto": PreferenceChoice(paired=False),
}


@dataclass(frozen=True)
class DraftChoice:
    """A way of drafting tokens ahead. `parameters` are keys of generation.speculative, named as vLLM names them.

    required: parameters without a usual value.
    """

    parameters: Parameters
    required: tuple[str, ...] = ()


_SECOND: Parameters = {"num_speculative_tokens": 3, "model": None, "draft_tensor_parallel_size": None}
DRAFTS: Mapping[str, DraftChoice] = {
    "ngram": DraftChoice({"num_speculative_tokens": 4, "prompt_lookup_max": 5, "prompt_lookup_min": 5}),
    "suffix": DraftChoice(
        {
            "num_speculative_tokens": 24,
            "suffix_decoding_max_tree_depth": 24,
            "suffix_decoding_max_cached_requests": 10000,
            "suffix_decoding_max_spec_factor": 1.0,
            "suffix_decoding_min_token_prob": 0.1,
        }
    ),
    "draft_model": DraftChoice(_SECOND, required=("model",)),
    "eagle3": DraftChoice(_SECOND, required=("model",)),
    "mtp": DraftChoice({"num_speculative_tokens": 1}),
}
"""Those of vLLM's methods that keep the distribution."""

KL_ESTIMATORS = ("k1", "k2", "k3", "abs", "k1+", "k3+")
"""Of algorithm.loss.kl.estimator."""
NORMALISATIONS = ("token", "sequence", "prompt", "constant")
"""Of algorithm.loss.normalisation."""


def loss_choice(name: str) -> LossChoice:
    """A loss's row, or a plugin's."""
    return LOSSES.get(name, LossChoice())


def correction_choice(name: str) -> CorrectionChoice:
    """A correction's row, or a plugin's."""
    return CORRECTIONS.get(name, CorrectionChoice())


def advantage_choice(name: str) -> AdvantageChoice:
    """An advantage's row, or a plugin's."""
    return ADVANTAGES.get(name, AdvantageChoice())


def preference_choice(name: str) -> PreferenceChoice:
    """A preference loss's row, or a plugin's."""
    return PREFERENCES.get(name, PreferenceChoice({}))
