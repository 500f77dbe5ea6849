"""Rejection: tokens, or whole answers, that are left out because engine and learner are too far apart.

It multiplies whatever correction there is: a correction weighs what is trained, a rejection says what is. With the
log-ratio x = p − g of a token, k1 = −x, k2 = x²/2 and k3 = e^x − 1 − x; a form judges each token (`token_`), or an
answer by the sum, the mean or the maximum over its trained tokens (`sum_`, `mean_`, `max_`).
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from penstock.objectives.inputs import LOG_RATIO_LIMIT, LossInputs, sequence_mean, sequence_sum


def kept(inputs: LossInputs, by: str, *, low: float, high: float) -> Tensor:
    """[T]: 1 for what is trained, 0 for what is rejected; without gradient.

    k1 has a sign, so its bounds are of the ratio: kept where low ≤ exp(Σ, mean or token of x) ≤ high. k2 and k3 are
    distances from 0: kept where at most `high`, and `low` has no say. Source: verl's `rollout_rs`; k3 by means is an
    estimate of KL(engine ‖ learner). Raises ValueError for another form, and for bounds that hold nothing.
    """
    over, _, kind = by.partition("_")
    if over not in _OVER or kind not in _KINDS or by == "max_k1":
        raise ValueError(f"unknown rejection {by!r}; valid: {', '.join(REJECTIONS)}")
    if not 0 <= low < high:
        raise ValueError(f"need 0 <= low < high, got low={low}, high={high}")
    x = (inputs.proximal - inputs.behaviour).detach().clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    judged = _OVER[over](_KINDS[kind](x), inputs)
    if kind == "k1":
        ratio = judged.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        inside = (ratio >= low) & (ratio <= high)
    else:
        inside = judged <= high
    return inside.to(inputs.mask.dtype)


def _maximum(values: Tensor, inputs: LossInputs) -> Tensor:
    trained = values.masked_fill(inputs.mask == 0, 0.0)
    most = values.new_zeros(inputs.sequences).scatter_reduce(0, inputs.sequence, trained, "amax")
    return most[inputs.sequence]


_KINDS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda x: x,  # its bounds are of the ratio, so the sign is the ratio's
    "k2": lambda x: x.square() / 2,
    "k3": lambda x: x.exp() - 1.0 - x,
}
_OVER: Mapping[str, Callable[[Tensor, LossInputs], Tensor]] = {
    "token": lambda values, inputs: values,
    "sum": lambda values, inputs: sequence_sum(values, inputs)[inputs.sequence],
    "mean": lambda values, inputs: sequence_mean(values, inputs)[inputs.sequence],
    "max": _maximum,
}
REJECTIONS = tuple(f"{over}_{kind}" for over in _OVER for kind in _KINDS if (over, kind) != ("max", "k1"))
"""The forms there are."""
