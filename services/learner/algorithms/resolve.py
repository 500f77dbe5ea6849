"""The recipe's names as functions: objectives with the parameters that the recipe gives them.

What the recipe left out is in it by now (its choices bring their defaults). Every function here raises UnknownChoice or
ValueError for a name, or a parameter, that nothing registered has.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from penstock.objectives import (
    LossInputs,
    TokenLoss,
    advantage_estimators,
    corrections,
    normalisations,
    off_policy_corrections,
    policy_losses,
    preference_losses,
    rejection,
)
from penstock.objectives.preferences import Pairs, divergences
from penstock.recipes import Recipe
from penstock.recipes.choices import advantage_choice
from penstock.recipes.sections import Loss, Preference
from services.learner.interface.batch import Batch


def advantage(recipe: Recipe) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """(worth [N] or [N, C], group [N], valid [N], lengths [N] in trained tokens) -> advantages [N]."""
    a, choice = recipe.algorithm, advantage_choice(recipe.algorithm.advantage)
    weights = {"weights": tuple(r.weight for r in recipe.rewards())} if choice.by_parts else {}
    made = advantage_estimators.make(a.advantage, **weights, **a.advantage_settings)
    if choice.by_length:
        return made
    return lambda worth, group, valid, lengths: made(worth, group, valid)


def takes_rewards_apart(recipe: Recipe) -> bool:
    """Whether the advantage is estimated from the parts of the reward, not from their sum."""
    return advantage_choice(recipe.algorithm.advantage).by_parts


def policy_loss(loss: Loss) -> Callable[[LossInputs], TokenLoss]:
    """The loss per token, and which tokens a trust region cut."""
    return policy_losses.make(loss.name, **loss.parameters)


def correction(loss: Loss) -> Callable[[LossInputs], Tensor]:
    """The off-policy weight per token, 0 where it is rejected."""
    weigh, reject = off_policy_corrections.make(loss.correction, **loss.correction_parameters), loss.rejection

    def weighed(inputs: LossInputs) -> Tensor:
        weight: Tensor = weigh(inputs)
        if loss.correction_mean_one != "none":
            weight = corrections.mean_one.mean_one(weight, inputs, loss.correction_mean_one)
        if reject.by == "none" or reject.high is None:
            return weight
        return weight * rejection.kept(inputs, reject.by, low=reject.low or 0.0, high=reject.high)

    return weighed


def weights(recipe: Recipe) -> Callable[[Batch], Tensor]:
    """fp32 [T] of a batch: what each token's loss is multiplied by so that the batch's loss is a plain sum."""
    name = recipe.algorithm.loss.normalisation
    bound = {"max_tokens": recipe.sampling.max_tokens} if "max_tokens" in normalisations.settings_of(name) else {}
    normalise = normalisations.make(name, **bound)

    def of(batch: Batch) -> Tensor:
        answer = batch.answer_of_token
        group = batch.group_of_answer[answer]
        return normalise(batch.mask.to(torch.float64), answer, group).to(torch.float32)

    return of


def preference_loss(p: Preference) -> Callable[[Pairs], Tensor]:
    """The loss per pair: the sum of what the section names."""
    terms = [(each.weight, preference_losses.make(each.loss, **each.parameters)) for each in p.losses]
    measure = divergences.divergence(p.divergence, p.divergence_order)

    def losses(pairs: Pairs) -> Tensor:
        measured = pairs._replace(divergence=measure)
        return torch.stack([weight * loss(measured) for weight, loss in terms]).sum(0)

    return losses
