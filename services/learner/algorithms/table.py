"""Every algorithm there is, and which one a recipe means: the only place that knows all of them."""

from collections.abc import Callable

from penstock.recipes import Recipe
from services.learner.algorithms.critic.samples import CriticSamples
from services.learner.algorithms.critic.trainer import CriticTrainer
from services.learner.algorithms.distillation import JudgedSamples, distillation_trainer
from services.learner.algorithms.live import Live, by_advantage
from services.learner.algorithms.method import Algorithm, Trainer
from services.learner.algorithms.policy_gradient.samples import AdvantageSamples
from services.learner.algorithms.policy_gradient.trainer import PolicyGradientTrainer
from services.learner.algorithms.preference.pairs import PreferencePairs
from services.learner.algorithms.preference.trainer import PreferenceTrainer
from services.learner.algorithms.reward_model.answers import RankedAnswers
from services.learner.algorithms.reward_model.trainer import RewardModelTrainer
from services.learner.algorithms.supervised import Demonstrations, SupervisedTrainer
from services.learner.interface.policy import Policy


def _alone(trainer: Callable[[Recipe, Policy], Trainer]) -> Callable[[Recipe, Policy, Policy | None, Live], Trainer]:
    """A trainer that has no use for a critic, and trains every sample."""
    return lambda recipe, policy, critic, live: trainer(recipe, policy)


def _sparing(
    trainer: Callable[[Recipe, Policy, Live], Trainer],
) -> Callable[[Recipe, Policy, Policy | None, Live], Trainer]:
    """A trainer that has no use for a critic, and leaves out what is dead."""
    return lambda recipe, policy, critic, live: trainer(recipe, policy, live)


ALGORITHMS = {
    "supervised": Algorithm("none", lambda _: Demonstrations(), _alone(SupervisedTrainer)),
    "policy_gradient": Algorithm("advantage", AdvantageSamples, _sparing(PolicyGradientTrainer), by_advantage),
    "critic": Algorithm("reward", CriticSamples, CriticTrainer, by_advantage),
    "distillation": Algorithm("advantage", JudgedSamples, _sparing(distillation_trainer), by_advantage),
    "preference": Algorithm("role", PreferencePairs, _alone(PreferenceTrainer)),
    "reward_model": Algorithm("score", RankedAnswers, _alone(RewardModelTrainer)),
}
"""By the name that `Recipe.method` gives."""


def algorithm_of(recipe: Recipe) -> Algorithm:
    """The one that the recipe names."""
    return ALGORITHMS[recipe.method.name]


def make_trainer(recipe: Recipe, policy: Policy, critic: Policy | None = None) -> Trainer:
    """The second half of the recipe's algorithm."""
    algorithm = algorithm_of(recipe)
    return algorithm.trainer(recipe, policy, critic, algorithm.live(recipe))
