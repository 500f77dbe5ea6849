"""What the learner says of a few samples with the weights it is about to publish: an engine must say the same of them.

They are the first of the batch that was just trained, so that their tokens are likely ones. Other weights than those
that were meant, a tensor in another's place or a type that loses too much show here, whatever the checksums say.
"""

import numpy as np
import torch

from penstock.recipes import Recipe
from penstock.trajectories import float32s, int32s
from penstock.weights.v1.weights_pb2 import Probe
from services.learner.interface.batch import Batch
from services.learner.interface.policy import Policy

MOST, LONGEST = 8, 2048
"""Samples of a version, and their tokens at most."""


def probes_of(recipe: Recipe, policy: Policy, batch: Batch) -> tuple[Probe, ...]:
    """The probes of the weights as they are; none where versions are not tried. A collective."""
    if recipe.canary is None:
        return ()
    longest = min(LONGEST, recipe.generation.max_context - 1)  # an engine that scores draws one token more
    chosen = torch.nonzero(batch.lengths <= longest).view(-1)[:MOST]
    if not len(chosen):
        return ()
    part = batch.select(chosen)[0].without_routes()
    said = policy.logprobs(part)
    columns = (part.tokens.cpu().numpy(), part.mask.cpu().numpy(), said.detach().float().cpu().numpy())
    ends = np.cumsum(part.lengths.cpu().numpy())[:-1]
    made = list[Probe]()
    for tokens, mask, logprobs in zip(*(np.split(column, ends) for column in columns), strict=True):
        trained = mask > 0
        values = np.where(trained, logprobs, np.float32(0))
        made.append(
            Probe(
                token_count=len(tokens),
                tokens=int32s(tokens),
                mask=trained.astype(np.uint8).tobytes(),
                logprobs=float32s(values),
            )
        )
    return tuple(made)
