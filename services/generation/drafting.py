"""Tokens drafted ahead: what vLLM needs for them beside its own package, how many of them it takes, and a repair of its
sampling on CPU.

Rejection sampling keeps the distribution, so nothing else here knows of drafts: a chunk may have more tokens.
"""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch

from penstock.telemetry import metrics

PACKAGES: Mapping[str, str] = {"suffix": "arctic_inference"}
"""What a method needs that vLLM does not bring."""
_proposed = metrics.counter(metrics.DRAFTS_PROPOSED, "tokens drafted ahead")
_accepted = metrics.counter(metrics.DRAFTS_ACCEPTED, "drafted tokens that the model took")


def missing(method: str, found: Callable[[str], object] = importlib.util.find_spec) -> str:
    """What keeps a method of vLLM's from working here, as the rest of a sentence; empty if nothing does."""
    package = PACKAGES.get(method)
    if package is None or found(package) is not None:
        return ""
    return (
        f"method {method} needs the package {package.replace('_', '-')}, which is not installed where generation runs; "
        "ngram needs none"
    )


class Acceptance:
    """Counts drafts; a stat logger of vLLM's."""

    def __init__(self, config: Any, engine_index: int = 0) -> None:
        """Made by vLLM, which gives what it made of its settings."""

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """After every step of the engine."""
        drafts = None if scheduler_stats is None else scheduler_stats.spec_decoding_stats
        if drafts is not None:
            _proposed.inc(drafts.num_draft_tokens)
            _accepted.inc(drafts.num_accepted_tokens)

    def log(self) -> None:
        """Nothing is written."""

    def log_engine_initialized(self) -> None:
        """Nothing is written."""


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
