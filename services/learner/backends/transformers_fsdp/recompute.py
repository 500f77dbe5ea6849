"""Which activations the layers of a transformers model compute again in the backward pass.

full: all but a layer's input. selective: what is cheap; the results of matrix products and of attention are kept
(torch's selective activation checkpointing), so norms, activation functions and rotary embeddings run twice, and
nothing else does.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts

aten = torch.ops.aten
KEPT = [
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
]


def install(model: Any, layers: Sequence[Any], recompute: Literal["none", "selective", "full"]) -> None:
    """layers: the model's, which run again one by one."""
    if recompute == "none":
        return
    settings: dict[str, Any] = {"use_reentrant": False}
    if recompute == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, KEPT)
    model.gradient_checkpointing_enable(settings)
    for layer in layers:
        layer.training = True  # what a layer asks before it recomputes; nothing in it is (see read_config)
