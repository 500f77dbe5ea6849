"""A learner's layout as numbers: what the counts are made of, and nothing that knows of a recipe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedLayout:
    """How the learner's model is spread, and what one forward pass holds."""

    tensor: int
    pipeline: int
    context: int
    data: int
    sequence_parallel: bool
    half: bool
    micro_batch_tokens: int
    recompute: bool
    virtual: int = 1
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ()
    keeps_reference: bool = False
    scores: bool = False
    fully_sharded: bool = False
    expert: int = 1
    ulysses: bool = False
    selective: bool = False
    offload: tuple[str, ...] = ()
    muon: bool = False
