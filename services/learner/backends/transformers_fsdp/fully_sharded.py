"""A model's memory over ranks: every rank owns a slice of each parameter, gathered for the moment a block needs it.

    rank 0, host: the whole model ── one block at a time ──► every rank, device: the block ── fully_shard ──► its slice

FSDP2 (`torch.distributed.fsdp.fully_shard`) does the gathering and the reduction. Parameters, gradients and optimizer
state are fp32 slices; in bf16 and fp16 what is gathered is a short copy, so the slices are the main weights. Gradients
are summed over ranks, not averaged: the loss arrives normalised.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(
    root: torch.nn.Module,
    blocks: Sequence[Any],
    whole: Any,
    device: torch.device,
    dtype: torch.dtype,
    mesh: DeviceMesh,
    cut: Callable[[torch.nn.Module], None],
) -> None:
    """Fills `root`, which has meta tensors, with the values of `whole` (of rank 0; None elsewhere), and shards it over
    the ranks of `mesh`, after `cut` has taken this rank's part of a block. dtype: what blocks compute in.

    A collective. `whole` has the parameters and buffers of `root` under the same names, and is empty afterwards. What
    is in `root` already and not on meta must be equal on all ranks, and on `device`.
    """
    values = _Values(root, whole, device)
    policy = MixedPrecisionPolicy()
    if dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for block in [*blocks, root]:
        values.fill(block)
        cut(block)
        # The root's part too is let go after a forward pass: one without a backward pass would leave it to go stale.
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


class _Values:
    """The values of a model's parameters and buffers, handed out from rank 0."""

    def __init__(self, root: torch.nn.Module, whole: Any, device: torch.device) -> None:
        self._device, self._world = device, dist.get_world_size()
        self._names = {tensor: name for name, tensor in _tensors(root)}
        self._source = dict(_tensors(whole)) if whole is not None else {}
        self._real: dict[Tensor, Tensor] = {}  # by the tensor on meta: one that is shared stays shared

    @torch.no_grad()
    def fill(self, block: torch.nn.Module) -> None:
        for module in block.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None and tensor.is_meta:
                        held[name] = self._value(tensor)

    def _value(self, meta: Tensor) -> Tensor:
        if meta not in self._real:
            real = torch.empty(meta.shape, dtype=meta.dtype, device=self._device)
            source = self._source.get(self._names[meta])
            if source is not None:
                real.copy_(source)
                source.data = torch.empty(0, dtype=source.dtype)
            if self._world > 1:
                dist.broadcast(real, src=0)
            is_parameter = isinstance(meta, torch.nn.Parameter)
            self._real[meta] = torch.nn.Parameter(real, requires_grad=meta.requires_grad) if is_parameter else real
        return self._real[meta]


def _tensors(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def slice_of(parameter: Any) -> Tensor:
    """The numbers of a sharded parameter (or gradient) that this rank owns: rows of dimension 0, live memory."""
    local: Tensor = parameter.detach().to_local()
    return local


def whole_of(parameter: Any, own: Tensor) -> Tensor:
    """Something that is cut as a sharded parameter, of which `own` is this rank's slice, put together; a collective."""
    cut = DTensor.from_local(
        own,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    whole: Tensor = cut.full_tensor()
    return whole


def own_slice(parameter: Any, whole: Tensor) -> Tensor:
    """This rank's slice of something as large as a sharded parameter, which every rank has; without a message."""
    cut = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return slice_of(cut)


def rows(whole: Tensor, rank: int, ranks: int) -> Tensor:
    """What `slice_of` gives on `rank` of `ranks` for a parameter that is `whole`; may be empty."""
    chunks = whole.chunk(ranks)
    return chunks[rank] if rank < len(chunks) else whole[:0]
