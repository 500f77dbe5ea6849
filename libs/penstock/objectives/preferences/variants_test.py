"""The variants of DPO against hand-computed values and gradients."""

import math
from typing import Any

import pytest
import torch

from penstock.objectives import preference_losses
from penstock.objectives.preferences import Pairs, divergences

W, L = (2.0, -1.0), (-1.0, 1.0)
"""c − r of the chosen and of the rejected answers: Δ = 3 and −2."""
REFERENCE = (torch.tensor([-8.0, -3.0]).double(), torch.tensor([-7.0, -9.0]).double())
"""Reference margins −1 and 6; the policy's are 2 and 4."""


def pairs(**more: object) -> tuple[torch.Tensor, torch.Tensor, Pairs]:
    chosen, rejected = (
        (r + torch.tensor(gain, dtype=torch.float64)).requires_grad_()
        for r, gain in zip(REFERENCE, (W, L), strict=True)
    )
    lengths = (torch.tensor([4.0, 2.0]).double(), torch.tensor([2.0, 8.0]).double())
    return chosen, rejected, Pairs(chosen, rejected, *REFERENCE, *lengths, **more)  # type: ignore[arg-type]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def log_sigma(x: float) -> float:
    return -math.log1p(math.exp(-x))


def slope(x: float) -> float:
    return sigma(x) * (1 - sigma(x))


B = 0.5
EXO = [
    sigma(B * d) * (log_sigma(B * d) - math.log(0.9)) + sigma(-B * d) * (log_sigma(-B * d) - math.log(0.1))
    for d in (3, -2)
]
EXO_SLOPE = [B * slope(B * d) * (B * d - math.log(9)) for d in (3, -2)]  # d/dx KL = σ'(x)(x − log(p_w / p_l))
Z = B * (2 - 1 - 1 + 1) / 4


def popped(d: float, tau: float = 0.05) -> tuple[float, float]:
    x, share = B * d, sigma(B * d / tau)
    value = (1 - share) * -log_sigma(x) + share * math.exp(-x)
    moved = slope(x / tau) / tau * (math.exp(-x) + log_sigma(x))
    return value, B * (moved - (1 - share) * sigma(-x) - share * math.exp(-x))


# values, and the gradients with respect to the chosen and the rejected answers' log-probs
CASES: dict[str, Any] = {
    "exo": ({"label_smoothing": 0.1}, EXO, EXO_SLOPE, [-g for g in EXO_SLOPE]),
    "nca": (
        {},
        [-log_sigma(B * w) - 0.5 * log_sigma(-B * w) - 0.5 * log_sigma(-B * r) for w, r in zip(W, L, strict=True)],
        [B * (-sigma(-B * w) + 0.5 * sigma(B * w)) for w in W],
        [B * 0.5 * sigma(B * r) for r in L],
    ),
    "bco": (
        {},
        [-log_sigma(B * w - Z) - log_sigma(Z - B * r) for w, r in zip(W, L, strict=True)],
        [-B * sigma(Z - B * w) for w in W],
        [B * sigma(B * r - Z) for r in L],
    ),
    "sppo": (
        {},
        [(w - 1) ** 2 + (r + 1) ** 2 for w, r in zip(W, L, strict=True)],
        [2 * (w - 1) for w in W],
        [2 * (r + 1) for r in L],
    ),
    # sorted: 2, 4 against −1, 6
    "aot": ({}, [-log_sigma(B * 3), -log_sigma(-B * 2)], [-B * sigma(-B * 3), -B * sigma(B * 2)], None),
    # sorted: −1, 2 against −1, 1: the second pair's chosen answer meets the first pair's rejected one
    "aot_unpaired": ({}, [math.log(2), -log_sigma(B)], [-B * sigma(-B), -B / 2], [B / 2, B * sigma(-B)]),
    "apo_zero": (
        {},
        [1 - sigma(B * w) + sigma(B * r) for w, r in zip(W, L, strict=True)],
        [-B * slope(B * w) for w in W],
        [B * slope(B * r) for r in L],
    ),
    "apo_down": (
        {},
        [sigma(B * w) + 1 - sigma(B * (w - r)) for w, r in zip(W, L, strict=True)],
        [B * (slope(B * w) - slope(B * (w - r))) for w, r in zip(W, L, strict=True)],
        [B * slope(B * (w - r)) for w, r in zip(W, L, strict=True)],
    ),
    "discopop": ({}, *([popped(d)[i] for d in (3, -2)] for i in (0, 1)), [-popped(d)[1] for d in (3, -2)]),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    settings, values, of_chosen, of_rejected = CASES[name]
    chosen, rejected, made = pairs()
    losses = preference_losses.make(name, beta=B, **settings)(made)
    assert losses.tolist() == pytest.approx(values)
    found = torch.autograd.grad(losses.sum(), [chosen, rejected])
    assert found[0].tolist() == pytest.approx(of_chosen)
    assert found[1].tolist() == pytest.approx([-g for g in of_chosen] if of_rejected is None else of_rejected)


def test_exo_needs_labels_that_may_be_wrong() -> None:
    with pytest.raises(ValueError, match="0 < label_smoothing"):
        preference_losses.make("exo", label_smoothing=0.0)(pairs()[2])


@pytest.mark.parametrize(
    ("kind", "order", "of"),
    [
        ("reverse_kl", None, lambda g: g),
        ("forward_kl", None, lambda g: 1 - math.exp(-g)),
        ("js", None, lambda g: math.log(2) + log_sigma(g)),
        ("alpha", 0.5, lambda g: (math.exp(-0.5 * g) - 1) / -0.5),
        ("alpha", 1.0, lambda g: g),
    ],
)
def test_a_divergence_stands_in_for_the_log_ratio(kind: divergences.Kind, order: float | None, of: object) -> None:
    assert callable(of)
    chosen, rejected, made = pairs(divergence=divergences.divergence(kind, order))
    delta = [of(w) - of(r) for w, r in zip(W, L, strict=True)]
    assert made.delta.tolist() == pytest.approx(delta)
    losses = preference_losses.make("sigmoid", beta=B)(made)
    assert losses.tolist() == pytest.approx([-log_sigma(B * d) for d in delta])
    found = torch.autograd.grad(losses.sum(), chosen)[0].tolist()
    step = 1e-6
    slopes = [(of(w + step) - of(w - step)) / (2 * step) for w in W]
    assert found == pytest.approx([-B * sigma(-B * d) * s for d, s in zip(delta, slopes, strict=True)], rel=1e-5)


@pytest.mark.parametrize(("kind", "order"), [("forward_kl", None), ("js", None), ("alpha", 0.5)])
def test_every_divergence_is_0_at_the_reference_and_grows_like_the_log_ratio(
    kind: divergences.Kind, order: float | None
) -> None:
    gain = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    value = divergences.divergence(kind, order)(gain)
    assert value.item() == pytest.approx(0.0)
    assert torch.autograd.grad(value.sum(), gain)[0].item() == pytest.approx(0.5 if kind == "js" else 1.0)


def test_alpha_needs_its_order() -> None:
    with pytest.raises(ValueError, match="needs its order"):
        divergences.divergence("alpha")
