"""Data-parallel messages beside the computation: gradients while the backward pass goes on, weights while the next
forward pass does.

Megatron's DDP does both, bucket by bucket. A bucket of gradients is sent as soon as the last micro-batch has filled it
(`no_sync` holds it back before). With the distributed optimizer a step changes only the rank's own slices; the others
arrive just before the first module that uses them:

    step ─► slices changed ─► forward: gather bucket n ─ use it, gather n − 1 meanwhile ─ … ─► whole

Invariant: whoever reads or writes weights other than by calling a module has called `settle` (all weights are whole
then, and stay so until the next step) or `settle_weight` before. A policy that is published after every step settles at
once, and gains from the gradients alone.
"""

from collections.abc import Sequence
from typing import Any

from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from penstock.recipes.sections import Parallel


def data_parallel(parallel: Parallel, distributed: bool) -> DistributedDataParallelConfig:
    """Without `overlap` everything is sent at once after the backward pass. distributed: the optimizer."""
    overlaps = parallel.overlap
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=distributed,
        overlap_grad_reduce=overlaps,
        overlap_param_gather=overlaps and distributed,
        bucket_size=parallel.overlap_bucket if overlaps else None,
    )


def tell_schedule(config: TransformerConfig, chunks: Sequence[DistributedDataParallel], forward_only: bool) -> None:
    """Gives one run of Megatron's schedule what holds messages back and lets them go. `config` is the chunks' own.

    A forward pass gets nothing: the schedules enter `no_sync` there and never leave it, so that it would end whenever
    its generator is collected, and that may be in the middle of the next step's accumulation.
    """
    if not chunks[0].ddp_config.overlap_grad_reduce:
        return
    holds, starts = [chunk.no_sync for chunk in chunks], [chunk.start_grad_sync for chunk in chunks]
    many = len(chunks) > 1
    config.no_sync_func = None if forward_only else holds if many else holds[0]
    config.grad_sync_func = None if forward_only else starts if many else starts[0]


def settle(chunks: Sequence[DistributedDataParallel]) -> None:
    """Waits until all weights are whole on every rank; a collective. Does nothing where they are."""
    for chunk in chunks:
        if chunk.ddp_config.overlap_param_gather:
            for group in _groups(chunk):
                if not group.param_gather_dispatched or group.param_gather_handle is not None:
                    group.start_param_sync(force_sync=True)


def settle_weight(chunk: DistributedDataParallel, weight: Tensor) -> None:
    """`settle` for one weight of `chunk`, in a forward pass where the modules before have been called."""
    if chunk.ddp_config.overlap_param_gather and weight in chunk.param_to_bucket_group:
        chunk.param_to_bucket_group[weight].finish_param_sync()


def _groups(chunk: DistributedDataParallel) -> list[Any]:
    return [*chunk.bucket_groups, *chunk.expert_parallel_bucket_groups]
