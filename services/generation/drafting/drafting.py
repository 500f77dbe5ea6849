"""Tokens drafted ahead: what vLLM needs for them beside its own package, and how many of them it takes.

Rejection sampling keeps the distribution, so nothing else here knows of drafts: a chunk may have more tokens.
"""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

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
