"""Losses, advantages, corrections and KL terms as pure functions of tensors.

Each family is one file whose docstrings carry formula, source and defaults. Nothing here knows about services, models
or parallelism: see `inputs` for what a loss is given and `normalisation` for how its values are added up. Importing
this package fills the registries; choose by name from them, or import a family's module for the bare functions.
"""

from penstock.objectives import (
    advantages,
    cispo,
    clipped,
    corrections,
    critics,
    diagnostics,
    distillation,
    divergence,
    gspo,
    kl,
    normalisation,
    preferences,
    proximal,
    ranking,
    reinforce,
    sapo,
    shaping,
)
from penstock.objectives.inputs import LossInputs, TokenLoss
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
from penstock.objectives.supervised import negative_log_likelihood

__all__ = [
    "LossInputs",
    "Registry",
    "TokenLoss",
    "UnknownChoice",
    "advantage_estimators",
    "advantages",
    "cispo",
    "clipped",
    "corrections",
    "critics",
    "diagnostics",
    "distillation",
    "divergence",
    "group_filters",
    "gspo",
    "kl",
    "kl_estimators",
    "negative_log_likelihood",
    "normalisation",
    "normalisations",
    "off_policy_corrections",
    "policy_losses",
    "preference_losses",
    "preferences",
    "proximal",
    "ranking",
    "reinforce",
    "sapo",
    "shaping",
]
