"""The sections of a recipe: typed, strict, with their defaults and units. Unknown keys are refused everywhere."""

from penstock.recipes.sections.algorithm import Algorithm, Critic, Filters, Reference
from penstock.recipes.sections.base import Section
from penstock.recipes.sections.data import Curriculum, Data
from penstock.recipes.sections.environment import Credentials, Environment, Judge, Reward, ServedModel
from penstock.recipes.sections.generation import Generation, Sampling, Speculative, Teacher
from penstock.recipes.sections.learner import Checkpoints, Learner, Lora, Optimizer, Parallel
from penstock.recipes.sections.losses import Kl, Loss, Rejection
from penstock.recipes.sections.mixture import Source
from penstock.recipes.sections.model import Model
from penstock.recipes.sections.preferences import PairLoss, Preference, RewardModelLoss
from penstock.recipes.sections.run import (
    ALERTS,
    Alert,
    Canary,
    Evaluation,
    Gateway,
    Limits,
    Packages,
    Rollout,
    Staleness,
    Telemetry,
    WeightSync,
)
from penstock.recipes.sections.security import Security

__all__ = [
    "ALERTS",
    "Alert",
    "Algorithm",
    "Canary",
    "Checkpoints",
    "Credentials",
    "Critic",
    "Curriculum",
    "Data",
    "Environment",
    "Evaluation",
    "Filters",
    "Gateway",
    "Generation",
    "Judge",
    "Kl",
    "Learner",
    "Limits",
    "Lora",
    "Loss",
    "Model",
    "Optimizer",
    "Packages",
    "PairLoss",
    "Parallel",
    "Preference",
    "Reference",
    "Rejection",
    "Reward",
    "RewardModelLoss",
    "Rollout",
    "Sampling",
    "Section",
    "Security",
    "ServedModel",
    "Source",
    "Speculative",
    "Staleness",
    "Teacher",
    "Telemetry",
    "WeightSync",
]
