"""What an agent says of how tokens are drawn, held against the run: its distribution is the one that is trained.

What asks for the run's own, or for nothing, is taken; what would change the distribution is refused, or left out with a
word in the answer's headers (`gateway.agent_sampling`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.common.v1.common_pb2 import SamplingParams
from services.gateway.errors import CallRefused, SamplingFixed, Unsupported

OVERRIDDEN = "x-penstock-overridden"
"""The header that names what was left out."""
NEUTRAL: Mapping[str, float] = {
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_p": 0.0,
}


def left_out(body: Mapping[str, Any], sampling: SamplingParams, overrides: bool) -> list[str]:
    """The fields of a request that would change the distribution. Raises SamplingFixed for the first of them unless the
    run overrides, and CallRefused for one that is no number."""
    own = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": float(sampling.top_k)}
    found = []
    for name, value in {**own, **NEUTRAL}.items():
        asked = _number(body, name)
        if asked is None or abs(asked - value) < 1e-6 or (name == "top_k" and asked <= 0 == value):
            continue
        found.append((name, f"{name} is {asked:g}, and the run draws with {value:g}"))
    if body.get("logit_bias"):
        found.append(("logit_bias", "logit_bias changes what the run draws"))
    choice = body.get("tool_choice")
    if choice not in (None, "auto", "none"):
        found.append(("tool_choice", "tool_choice can be auto or none: no call can be forced"))
    if isinstance(form := body.get("response_format"), Mapping) and form.get("type", "text") != "text":
        found.append(("response_format", "response_format can be text: no form can be forced"))
    if found and not overrides:
        name, why = found[0]
        raise SamplingFixed(f"{why}; leave it out, or set gateway.agent_sampling: override in the recipe", name)
    return [name for name, _ in found]


def check_single(body: Mapping[str, Any]) -> None:
    """Raises Unsupported for what asks for more than one answer's own tokens."""
    for name in ("n", "best_of"):
        if body.get(name) not in (None, 1):
            raise Unsupported(f"{name} must be 1: every answer is a call of its own here", name)
    if body.get("functions"):
        raise Unsupported("functions are the API's old form; use tools", "functions")
    if body.get("echo"):
        raise Unsupported("echo: the prompt is not sent back", "echo")


def most_tokens(body: Mapping[str, Any]) -> int | None:
    """The most tokens of the answer, where the request says so. Raises CallRefused."""
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        asked = body.get(name)
        if asked is not None:
            if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
                raise CallRefused(f"{name} is {asked!r:.40}; it must be a whole number of at least 1", name)
            return asked
    return None


def stops(body: Mapping[str, Any]) -> list[str]:
    """The stop texts of a request. Raises CallRefused."""
    asked = body.get("stop")
    texts = [] if asked is None else [asked] if isinstance(asked, str) else asked
    if (
        not isinstance(texts, list)
        or len(texts) > 4
        or not all(isinstance(t, str) and 0 < len(t) <= 256 for t in texts)
    ):
        raise CallRefused("stop must be a text of 1 to 256 characters, or a list of at most 4 of them", "stop")
    return texts


def _number(body: Mapping[str, Any], name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CallRefused(f"{name} is {value!r:.40}; it must be a number", name)
    return float(value)
