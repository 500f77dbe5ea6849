"""The whole policy-gradient objective in one process, with Hugging Face transformers, sequence by sequence, and torch's
AdamW (and Muon): what every backend and layout is compared with.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

import torch

from penstock.recipes import Recipe
from services.learner.interface.batch import Batch
from services.learner.testing.recipes import recipe_of
from services.learner.testing.tiny_models import adamw, muon, random_batch, stored, tiny_model

SEEDS = (1, 2)
OPTIMIZER: dict[str, Any] = dict(learning_rate=1e-2, weight_decay=0.1, beta2=0.95, epsilon=1e-5, clip_gradient=0.5)
GRPO = recipe_of(
    loss="ppo_clip", correction="tis", normalisation="token", kl=0.1, entropy_coefficient=0.05, temperature=0.8
)
GSPO = recipe_of(loss="gspo", correction="mis_sequence", normalisation="sequence", proximal="recompute")
SFT = recipe_of("sft")
LIMITS = {"log-prob": 1e-5, "loss": 1e-5, "norm": 2e-5, "weight": 1e-4, "gradient": 2e-5}
"""Largest errors, of all tokens, steps and parameters; norm and gradient are relative (a gradient to its largest)."""
SETTINGS = {"grpo": GRPO, "gspo": GSPO, "sft": SFT}
"""The objectives by the name that `reference` takes."""


def _logprobs(model: Any, batch: Batch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """[T] log-prob and entropy of every token from full logits, one sequence at a time; 0 at first tokens."""
    logprobs, entropies = [], []
    for tokens in batch.tokens.long().split(batch.lengths.tolist()):
        logp = torch.log_softmax(model(tokens[None, :-1]).logits[0].float() / temperature, -1)
        logprobs += [logp.new_zeros(1), logp.gather(1, tokens[1:, None])[:, 0]]
        entropies += [logp.new_zeros(1), -(logp.exp() * logp).sum(-1)]
    return torch.cat(logprobs), torch.cat(entropies)


def _reference_loss(model: Any, initial: Any, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """Written out from algorithms.md, not from penstock.objectives."""
    c, entropy = _logprobs(model, batch, recipe.sampling.temperature)
    m, a, g = batch.mask, batch.signal, batch.behaviour
    if recipe.method.name == "supervised":
        return -(c * m).sum() / m.sum()
    p = c.detach()
    if recipe.algorithm.loss.name == "gspo":
        total, live = c.new_zeros(()), 0
        for cs, ps, gs, ms, as_ in zip(*(x.split(batch.lengths.tolist()) for x in (c, p, g, m, a)), strict=True):
            if ms.sum() == 0:
                continue
            live += 1
            gate = ((ps - gs) * ms).sum() / ms.sum()
            if 0.5 <= gate.exp() <= 2.0:
                total = total - ((((cs - ps) * ms).sum() / ms.sum()).exp() * as_[ms > 0][0])
        return total / live
    with torch.no_grad():
        r, _ = _logprobs(initial, batch, recipe.sampling.temperature)
    weight = (p - g).exp().clamp(max=2.0)
    delta, loss = r - c, recipe.algorithm.loss
    kl = (c - g).exp() * (delta.exp() - 1 - delta)
    token = -weight * (c - p).exp() * a + loss.kl.coefficient * kl - loss.entropy_coefficient * entropy
    return (token * m)[m > 0].sum() / m.sum()


@functools.cache
def reference(family: str, tied: bool, settings_name: str, name: str = "adamw") -> list[dict[str, Any]]:
    recipe = SETTINGS[settings_name]
    model, initial = tiny_model(family, tied), tiny_model(family, tied)
    optimizers = [adamw(model, **OPTIMIZER)] if name == "adamw" else muon(model, **OPTIMIZER)
    steps = []
    for seed in SEEDS:
        model.zero_grad()
        loss = _reference_loss(model, initial, random_batch(seed), recipe)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_gradient"])
        gradients = stored((name, p.grad.clone()) for name, p in model.named_parameters())
        for optimizer in optimizers:
            optimizer.step()
        weights = stored((name, p.detach().clone()) for name, p in model.named_parameters())
        steps.append({"loss": loss.item(), "norm": norm.item(), "gradients": gradients, "weights": weights})
    return steps


ROWS: list[dict[str, str]] = []
"""What `compare` measured, a row a call; `conftest` prints them as a table at the end."""


def compare(
    results: Sequence[dict[str, Any]], family: str, tied: bool, settings_name: str, optimizer: str = "adamw"
) -> None:
    """`results`: the weights a policy began with, and its log-probs of the first batch; then of each step loss, norm,
    weights, clipped gradients or None."""
    initial, *steps = results
    original = stored((name, p.detach()) for name, p in tiny_model(family, tied).named_parameters())
    assert initial["weights"].keys() == original.keys()
    for name, tensor in original.items():
        assert torch.equal(initial["weights"][name], tensor), f"{name} is not bitwise what was loaded"
    expected = reference(family, tied, settings_name, optimizer)
    batch = random_batch(SEEDS[0])
    with torch.no_grad():
        logprobs, _ = _logprobs(tiny_model(family, tied), batch, 1.0)
    errors = {
        "log-prob": float(((initial["logprobs"] - logprobs) * batch.mask).abs().max()),
        "loss": max(abs(a["loss"] - b["loss"]) for a, b in zip(steps, expected, strict=True)),
        "norm": max(abs(a["norm"] / b["norm"] - 1) for a, b in zip(steps, expected, strict=True)),
        "weight": max(
            float((a["weights"][name] - tensor).abs().max())
            for a, b in zip(steps, expected, strict=True)
            for name, tensor in b["weights"].items()
        ),
    }
    # Of an optimizer that is shared out nobody has all gradients; their norm and the weights say enough.
    if steps[0]["gradients"] is not None:
        errors["gradient"] = max(
            float((steps[0]["gradients"][name] - tensor).abs().max() / tensor.abs().max().clamp(min=1e-12))
            for name, tensor in expected[0]["gradients"].items()
        )
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[2].partition(" ")[0]
    ROWS.append({"test": test, **{name: f"{errors[name]:.1e}" if name in errors else "-" for name in LIMITS}})
    for name, error in errors.items():
        assert error <= LIMITS[name], f"{name}: off by {error:.1e}, which is more than {LIMITS[name]:.0e} ({errors})"
