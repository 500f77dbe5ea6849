"""Inside vLLM's workers on CPU: a repair of how drafted tokens are sampled."""

from typing import Any

import torch


def for_each_draft(
    each: torch.Tensor, ends: torch.Tensor, count: int, replace_from: int = 0, replace_to: int = 0
) -> torch.Tensor:
    """Settings of requests [requests] for each of their drafted tokens [count], those of request i before ends[i]; one
    that is `replace_from` becomes `replace_to`."""
    replaced = torch.where(each == replace_from, replace_to, each)
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    return replaced.repeat_interleave(counts.long(), output_size=count)


def repair_sampling() -> None:
    """In a worker on CPU: temperature, top_k and top_p of drafted tokens.

    vLLM's own (0.32) converts the tensor that it is to write into, writes into the copy, and samples by whatever was in
    memory (vllm-project/vllm#55005); and a step in which nothing was drafted ends the worker where top_k is used."""
    from vllm.platforms import current_platform
    from vllm.v1.sample import rejection_sampler

    if not current_platform.is_cpu():
        return
    constrain = rejection_sampler.apply_sampling_constraints

    def of_drafts(logits: torch.Tensor, ends: torch.Tensor, sampling: Any) -> torch.Tensor:
        constrained: torch.Tensor = constrain(logits, ends, sampling) if len(logits) else logits
        return constrained

    rejection_sampler.expand_batch_to_tokens = for_each_draft
    rejection_sampler.apply_sampling_constraints = of_drafts
