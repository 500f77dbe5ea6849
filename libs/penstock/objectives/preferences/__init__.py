"""Preference losses: functions of how likely whole answers are under the policy and under a reference.

With c and r the log-probs of an answer's tokens under policy and reference, summed over the answer, and
Δ = (c_w − r_w) − (c_l − r_l) for a chosen (w) and a rejected (l) answer. Losses are per pair and are averaged over
pairs. `kto` alone takes single answers. `divergences` has what other divergences from the reference put for c − r.

Each is a function of a few numbers per answer, so its gradient is a weight per answer: the learner evaluates the loss
on log-probs of a forward pass, and trains Σ weight · log-prob over packed micro-batches, however pairs were cut
(`answer_weights`). That is the exact gradient, and pairs need not share a micro-batch.
"""

from penstock.objectives.preferences import (
    aot,
    apo,
    bco,
    discopop,
    divergences,
    dpo,
    exo,
    hinge,
    ipo,
    length_normalised,
    nca,
    orpo,
    ranking,
    simpo,
    sppo,
)
from penstock.objectives.preferences.pairs import Pairs, answer_weights, pair_confidence, pair_importance, rank_pairs
from penstock.objectives.preferences.unpaired import kto

__all__ = [
    "Pairs",
    "answer_weights",
    "aot",
    "apo",
    "bco",
    "discopop",
    "divergences",
    "dpo",
    "exo",
    "hinge",
    "ipo",
    "kto",
    "length_normalised",
    "nca",
    "orpo",
    "pair_confidence",
    "pair_importance",
    "rank_pairs",
    "ranking",
    "simpo",
    "sppo",
]
