"""The recipe's names as functions: objectives with the parameters that the recipe gives them.

What the recipe leaves out (None) is left to the objective's own default. Every function here raises UnknownChoice or
ValueError for a name, or a parameter, that nothing registered has.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from penstock.objectives import (
    LossInputs,
    TokenLoss,
    advantage_estimators,
    normalisations,
    off_policy_corrections,
    policy_losses,
    preference_losses,
)
from penstock.recipes import Recipe
from penstock.recipes.sections import Loss, Preference
from services.learner.interface.batch import Batch


def advantage(recipe: Recipe) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(worth [N] or [N, C], group [N], valid [N]) -> advantages [N]."""
    a = recipe.algorithm
    if takes_rewards_apart(recipe):
        return advantage_estimators.make(a.advantage, weights=tuple(r.weight for r in recipe.rewards()))
    return advantage_estimators.make(a.advantage, **a.advantage_settings)


def takes_rewards_apart(recipe: Recipe) -> bool:
    """Whether the advantage is estimated from the parts of the reward, not from their sum."""
    return recipe.algorithm.advantage == "gdpo"


def policy_loss(loss: Loss) -> Callable[[LossInputs], TokenLoss]:
    """The loss per token, and which tokens a trust region cut."""
    clip = _given(clip_low=loss.clip_low, clip_high=loss.clip_high)
    parameters: dict[str, dict[str, float]] = {
        # .28 is the default under staleness; the loss's own is .2
        "ppo_clip": {"clip_high": 0.28, **clip, **_given(dual_clip=loss.dual_clip)},
        "gspo": clip,
        "cispo": {"cap": loss.cap},
        "sapo": {"tau_positive": loss.tau_positive, "tau_negative": loss.tau_negative},
        "dppo": {"delta": loss.delta, "tau": loss.tau},
        "dro": _given(beta=loss.beta),
    }
    return policy_losses.make(loss.name, **parameters.get(loss.name, loss.settings))


def correction(loss: Loss) -> Callable[[LossInputs], Tensor]:
    """The off-policy weight per token; 1 with `proximal: behaviour`, where the ratio to the engine is already the trust
    region's."""
    if loss.proximal == "behaviour":
        return off_policy_corrections.make("none")
    window = _given(low=loss.correction_low, high=loss.correction_high)
    parameters: dict[str, dict[str, float]] = {
        "tis": {"cap": loss.correction_cap},
        "icepop": window,
        "mis_token": window,
        "mis_sequence": window,
        "seq_mask_tis": {"cap": loss.correction_cap, **window},
        "opsm": _given(limit=loss.correction_limit),
        "m2po": _given(limit=loss.correction_limit),
    }
    return off_policy_corrections.make(loss.correction, **parameters.get(loss.correction, {}))


def weights(recipe: Recipe) -> Callable[[Batch], Tensor]:
    """fp32 [T] of a batch: what each token's loss is multiplied by so that the batch's loss is a plain sum."""
    name = recipe.algorithm.loss.normalisation
    constant = {"max_tokens": recipe.sampling.max_tokens} if name == "constant" else {}
    normalise = normalisations.make(name, **constant)

    def of(batch: Batch) -> Tensor:
        sequence = batch.sequence_of_token
        group = batch.group_of_sequence[sequence]
        return normalise(batch.mask.to(torch.float64), sequence, group).to(torch.float32)

    return of


def preference(p: Preference) -> dict[str, float]:
    """The parameters of the preference loss that the recipe names."""
    own: dict[str, dict[str, float]] = {
        "sigmoid": {"label_smoothing": p.label_smoothing},
        "robust": {"label_smoothing": p.label_smoothing},
        "simpo": {"margin": p.margin},
    }
    return {"beta": p.beta, **own.get(p.loss, {})}


def preference_loss(p: Preference) -> Callable[..., Tensor]:
    """The loss per pair."""
    return preference_losses.make(p.loss, **preference(p))


def _given(**settings: float | None) -> dict[str, float]:
    """Those that the recipe states; the objective's own defaults hold for the others."""
    return {name: value for name, value in settings.items() if value is not None}
