"""Off-policy correction weights: what a token's loss is multiplied by because another policy sampled it.

`p − g` is the log-ratio between the learner's policy at the start of the step and the engine that sampled the token:
staleness and engine mismatch together. The weight multiplies after clipping and never carries a gradient. Where a
whole sequence is judged, the *geometric mean* of the ratio is used: a plain product drifts to 0 or infinity with
length and would reject every long sequence.
"""

from penstock.objectives.corrections import icepop, m2po, mean_one, mis, none, opsm, seq_mask_tis, tis

WHOLE_BATCH = ("m2po",)
"""Corrections that compare tokens of the whole batch; on a part of it they would depend on how it was cut."""

__all__ = ["WHOLE_BATCH", "icepop", "m2po", "mean_one", "mis", "none", "opsm", "seq_mask_tis", "tis"]
