"""What a recipe must know of every algorithm; the two halves that do the work are the learner's, under the same names.

`services/learner/algorithms/table.py` has a row for each of these, which a test there holds it to.
"""

from collections.abc import Callable
from dataclasses import dataclass

from penstock.recipes.choices import advantage_choice, preference_choice
from penstock.recipes.sections import Algorithm


@dataclass(frozen=True)
class Method:
    """One way to learn, as the recipe's section `algorithm` names it.

    Attributes:
      means: whether a section means this one.
      draws: whether training samples are drawn from the policy (and not read from the data set).
      compares: whether the model the run started from is needed beside the one that is trained.
      scores: whether what is trained scores answers instead of writing them.
      measures: what is measured of held-out rows, by name; none where tasks are played.
      critic: whether a second model learns the values that advantages are made of.
    """

    name: str
    means: Callable[[Algorithm], bool]
    draws: Callable[[Algorithm], bool] = lambda a: True
    compares: Callable[[Algorithm], bool] = lambda a: False
    scores: bool = False
    critic: bool = False
    measures: Callable[[Algorithm], tuple[str, ...]] = lambda a: ()


def _values(a: Algorithm) -> str:
    """Which model a policy gradient values samples by, where it is not the group."""
    return advantage_choice(a.advantage).needs if a.name == "grpo" else ""


def _pulls(a: Algorithm) -> bool:
    return a.loss.kl.coefficient > 0


def _of_pairs(a: Algorithm) -> tuple[str, ...]:
    accuracy = ("accuracy",) if preference_choice(a.preference.loss).paired else ()
    return ("loss", *accuracy, "margin", "reward_chosen", "reward_rejected", "nll")


METHODS = (
    Method("supervised", lambda a: a.name == "sft", draws=lambda a: False, measures=lambda a: ("loss",)),
    Method(
        "reward_model",
        lambda a: a.name == "reward_model",
        draws=lambda a: False,
        scores=True,
        measures=lambda a: ("loss", "accuracy", "margin", "reward_mean"),
    ),
    Method(
        "preference",
        lambda a: a.name == "dpo",
        draws=lambda a: a.preference.source == "rollouts",
        compares=lambda a: any(preference_choice(each.loss).reference for each in a.preference.losses),
        measures=_of_pairs,
    ),
    Method("critic", lambda a: _values(a) == "critic", compares=_pulls, critic=True),
    Method("distillation", lambda a: _values(a) == "teacher", compares=_pulls),
    Method("policy_gradient", lambda a: a.name == "grpo", compares=_pulls),
)
"""The first one that a section means is its method."""


def method_of(algorithm: Algorithm) -> Method:
    """The one that the section means."""
    return next(m for m in METHODS if m.means(algorithm))
