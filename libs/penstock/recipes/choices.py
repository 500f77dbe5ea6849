"""Names that a recipe may choose from, and what each of them stands for.

The objectives themselves are torch's (penstock.objectives), which a recipe does not import: the learner's
`mapping_test.py` holds the two together.
"""

LOSSES = ("ppo_clip", "cispo", "gspo", "reinforce", "sapo", "dppo", "dro")
CORRECTIONS = ("none", "tis", "icepop", "mis_token", "mis_sequence", "seq_mask_tis", "opsm", "m2po")
ADVANTAGES = ("grpo", "dr_grpo", "rloo", "reinforce_pp", "batch_norm", "maxrl", "gdpo", "opd", "gae")
PREFERENCE_LOSSES = ("sigmoid", "robust", "hinge", "ipo", "length_normalised", "simpo", "orpo", "kto")
# Losses that bound the step by themselves when the data is off-policy.
TRUST_REGIONS = ("ppo_clip", "gspo", "sapo")
# Losses that are taken against the behaviour policy itself; a correction would correct twice.
BEHAVIOUR_LOSSES = ("dppo", "dro")
