"""The accumulated gradients of a policy under Hugging Face's names, to be compared with those of a reference."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from services.learner.backends.megatron_core import conversion
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy


def gradients_of(policy: MegatronPolicy | TransformersPolicy) -> dict[str, Tensor]:
    """Whole CPU tensors on rank 0, as `export` gives weights; a collective. On Megatron complete only where the
    optimizer is not shared out, or one rank holds the whole data and context dimension."""
    if isinstance(policy, MegatronPolicy):
        return dict(conversion.export(policy._models, policy.config, policy.layout, lambda p: p.main_grad))
    return dict(_sharded(policy))


@torch.no_grad()
def _sharded(policy: TransformersPolicy) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in policy._network.model.named_parameters():
        if parameter.grad is not None:
            whole = parameter.grad.full_tensor()
            if dist.get_rank() == 0:
                yield name, whole.to("cpu", copy=True)
