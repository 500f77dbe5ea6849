"""Names that a recipe may choose from: which keys of its section each takes, and the traits that checks ask for.

A new loss is a row here, beside its file in penstock.objectives. That library needs torch, which a recipe does not: the
learner's `mapping_test.py` holds the two together, names, parameters and traits. A name that is not here is a
plugin's: it takes the section's `settings`, and has no trait.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LossChoice:
    """A policy loss. `parameters` are keys of algorithm.loss.

    required: parameters without a usual value. trust_region: it bounds the step by itself when the data is off-policy.
    behaviour: it is taken against the behaviour policy itself, so that a correction would correct twice.
    per_sequence: it is defined for no other normalisation.
    """

    parameters: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    trust_region: bool = False
    behaviour: bool = False
    per_sequence: bool = False


@dataclass(frozen=True)
class CorrectionChoice:
    """An off-policy correction. Its parameters are the keys algorithm.loss.correction_<parameter>.

    whole_batch: it sees every sample before the step.
    """

    parameters: tuple[str, ...] = ()
    whole_batch: bool = False


@dataclass(frozen=True)
class AdvantageChoice:
    """An advantage. `needs`: the model that values samples, where it is not the group; by_parts: it takes the reward
    apart."""

    needs: str = ""
    by_parts: bool = False


@dataclass(frozen=True)
class PreferenceChoice:
    """A preference loss. `parameters` are keys of algorithm.preference; paired: it compares two answers."""

    parameters: tuple[str, ...] = ("beta",)
    reference: bool = True
    paired: bool = True


LOSSES: Mapping[str, LossChoice] = {
    "ppo_clip": LossChoice(("clip_low", "clip_high", "dual_clip"), trust_region=True),
    "cispo": LossChoice(("cap",)),
    "gspo": LossChoice(("clip_low", "clip_high"), trust_region=True, per_sequence=True),
    "reinforce": LossChoice(),
    "sapo": LossChoice(("tau_positive", "tau_negative"), trust_region=True),
    "dppo": LossChoice(("delta", "tau"), behaviour=True),
    "dro": LossChoice(("beta",), required=("beta",), behaviour=True),
}

CORRECTIONS: Mapping[str, CorrectionChoice] = {
    "none": CorrectionChoice(),
    "tis": CorrectionChoice(("cap",)),
    "icepop": CorrectionChoice(("low", "high")),
    "mis_token": CorrectionChoice(("low", "high")),
    "mis_sequence": CorrectionChoice(("low", "high")),
    "seq_mask_tis": CorrectionChoice(("cap", "low", "high")),
    "opsm": CorrectionChoice(("limit",)),
    "m2po": CorrectionChoice(("limit",), whole_batch=True),
}

ADVANTAGES: Mapping[str, AdvantageChoice] = {
    "grpo": AdvantageChoice(),
    "dr_grpo": AdvantageChoice(),
    "rloo": AdvantageChoice(),
    "reinforce_pp": AdvantageChoice(),
    "batch_norm": AdvantageChoice(),
    "maxrl": AdvantageChoice(),
    "gdpo": AdvantageChoice(by_parts=True),
    "opd": AdvantageChoice(needs="teacher"),
    "gae": AdvantageChoice(needs="critic"),
}

PREFERENCES: Mapping[str, PreferenceChoice] = {
    "sigmoid": PreferenceChoice(("beta", "label_smoothing")),
    "robust": PreferenceChoice(("beta", "label_smoothing")),
    "hinge": PreferenceChoice(),
    "ipo": PreferenceChoice(),
    "length_normalised": PreferenceChoice(),
    "simpo": PreferenceChoice(("beta", "margin"), reference=False),
    "orpo": PreferenceChoice(reference=False),
    "kto": PreferenceChoice(paired=False),
}


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
    return PREFERENCES.get(name, PreferenceChoice())
