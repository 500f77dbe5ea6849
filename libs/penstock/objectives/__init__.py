"""Losses, advantages, corrections and KL terms as pure functions of tensors.

    losses/         over tokens: ppo_clip, cispo, gspo, …
    advantages/     from rewards, over groups
    corrections/    weights of tokens that another policy drew
    preferences/    losses over whole answers: dpo, simpo, kto, …, and a reward model's
    critics.py      advantages from a critic's values, and the loss of the values
    kl.py           the pull towards a reference
    rejection.py    tokens and answers that are not trained at all
    router.py       even use of a mixture's experts
    entropies.py    tokens that are trained for being undecided

One file per choice; its docstring carries formula, source and defaults. Nothing here knows about services, models or
parallelism: see `inputs` for what a loss is given and `normalisation` for how its values are added up. Importing this
package fills the registries; choose by name from them, or import a file for the bare function.
"""

from penstock.objectives import (
    advantages,
    corrections,
    critics,
    diagnostics,
    entropies,
    kl,
    losses,
    normalisation,
    preferences,
    proximal,
    rejection,
    router,
    shaping,
)
from penstock.objectives.inputs import LossInputs, TokenLoss
from penstock.objectives.losses import distillation
from penstock.objectives.losses.supervised import negative_log_likelihood
from penstock.objectives.preferences import ranking
from penstock.objectives.registry import (
    Registry,
    UnknownChoice,
    advantage_estimators,
    group_filters,
    kl_estimators,
    normalisations,
    off_policy_corrections,
    policy_losses,
    preference_losses,
)

__all__ = [
    "LossInputs",
    "Registry",
    "TokenLoss",
    "UnknownChoice",
    "advantage_estimators",
    "advantages",
    "corrections",
    "critics",
    "diagnostics",
    "distillation",
    "entropies",
    "group_filters",
    "kl",
    "kl_estimators",
    "losses",
    "negative_log_likelihood",
    "normalisation",
    "normalisations",
    "off_policy_corrections",
    "policy_losses",
    "preference_losses",
    "preferences",
    "proximal",
    "ranking",
    "rejection",
    "router",
    "shaping",
]
