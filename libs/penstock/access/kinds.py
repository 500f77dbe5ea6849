"""The kinds of callers of a run. A right belongs to a kind; instances of one kind are alike.

A certificate names its kind as the last part of a URI: spiffe://penstock/learner, spiffe://cluster.example/ns/rl/sa/learner.
"""

from __future__ import annotations

from typing import Literal, get_args
from urllib.parse import urlsplit

Kind = Literal[
    "coordinator",
    "rollout",
    "generation",
    "environment",
    "gateway",
    "reward_model",
    "learner",
    "weight_sync",
    "relay",
    "dashboard",
    "operator",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
ANYBODY = "anybody"
"""Who calls a server that knows no kinds: one that has a single token, or nothing at all."""


def kind_of_uri(uri: str) -> Kind | None:
    """The kind that a URI of a certificate names; None if it names none."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    last = parts.path.rpartition("/")[2]
    return next((kind for kind in KINDS if kind == last), None) if parts.scheme == "spiffe" else None
