"""What is minimised over tokens: one file per loss, whose docstring carries formula, source and defaults.

Importing this package fills the registry. A file takes its loss's name.
"""

from penstock.objectives.losses import (
    cispo,
    distillation,
    dppo,
    dro,
    geo_mean,
    gspo,
    ppo_clip,
    reinforce,
    sapo,
    supervised,
    vespo,
)

__all__ = [
    "cispo",
    "distillation",
    "dppo",
    "dro",
    "geo_mean",
    "gspo",
    "ppo_clip",
    "reinforce",
    "sapo",
    "supervised",
    "vespo",
]
