"""Even use of a mixture's experts: as a loss on its routers, and as it was."""

import math

import torch
from torch import Tensor


def balance(logits: Tensor, top: int, sequence: Tensor, sequences: int, places: Tensor | None = None) -> Tensor:
    """[S]: E · Σ_e f_e P_e of each sequence, f_e the share of its choices that fell on expert e, P_e the mean over its
    tokens of the router's probability of e. 1 where both are even, E / top at most where `top` experts are always
    taken.

    The gradient goes through P alone. It is of one sequence, so that it does not matter how a batch is cut. logits:
    [t, E] with gradient; sequence: int64 [n], and places: int64 [n], whose token lies where in logits (which several
    may share); 0 … t−1 if None. Source: the balance loss of Switch Transformers (Fedus et al. 2021, eq.
    4-6), over sequences as DeepSeek-V3 (2024, eq. 17-20) has it.
    """
    experts = logits.shape[1]
    probabilities = torch.softmax(logits.float(), -1)
    chosen = torch.zeros_like(probabilities).scatter_(1, probabilities.topk(top, -1).indices, 1.0 / top)
    places = torch.arange(len(logits), device=logits.device) if places is None else places
    ones = torch.ones_like(sequence, dtype=probabilities.dtype)
    of = torch.sparse_coo_tensor(
        torch.stack([sequence, places]), ones, (sequences, len(logits)), check_invariants=False
    )
    tokens = ones.new_zeros(sequences).index_add(0, sequence, ones).clamp(min=1.0)[:, None]
    share, mean = torch.sparse.mm(of, chosen.detach()) / tokens, torch.sparse.mm(of, probabilities) / tokens
    return experts * (share * mean).sum(-1)


def load(counts: Tensor) -> tuple[float, float, float]:
    """(entropy, largest, dead) of how often each expert was taken, counts [layers, E].

    entropy: of the shares, over that of even ones, mean over layers; 1 where all are even. largest: the share of the
    busiest expert of any layer; 1 / E at least. dead: the share of all experts that nobody took. (0, 0, 0) where
    nothing was counted.
    """
    totals = counts.sum(1, keepdim=True)
    if not bool((totals > 0).all()):
        return 0.0, 0.0, 0.0
    shares = counts / totals
    entropy = -torch.special.xlogy(shares, shares).sum(1).mean() / math.log(max(counts.shape[1], 2))
    return float(entropy), float(shares.max()), float((counts == 0).double().mean())
