"""Which rank holds which part of the model: checked sizes, process groups, and this rank's place in them.

A layout that Megatron would accept and compute wrongly, or refuse deep inside with a bare assertion, is refused here
with the field, its value and the limit.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from penstock.recipes.sections import Learner, Parallel
from services.learner.backends.packing.building import Cut
from services.learner.huggingface.config import ModelConfig
from services.learner.interface.errors import LayoutError


def check_ranks(parallel: Parallel, world_size: int, model: ModelConfig) -> None:
    """Raises LayoutError naming field, value and limit."""
    product = parallel.tensor * parallel.pipeline * parallel.context
    if world_size % product:
        raise LayoutError(
            f"parallel.tensor × pipeline × context = {parallel.tensor} × {parallel.pipeline} × {parallel.context} = "
            f"{product} must divide the number of learner ranks, {world_size}"
        )
    if parallel.sequence_parallel and parallel.tensor == 1:
        raise LayoutError("parallel.sequence_parallel needs parallel.tensor > 1, got parallel.tensor = 1")
    matrices = [("num_attention_heads", model.num_heads)]
    if model.experts is None:
        matrices.append(("intermediate_size", model.intermediate_size))
    for field, size in matrices:
        if size % parallel.tensor:
            raise LayoutError(f"parallel.tensor = {parallel.tensor} must divide the model's {field} = {size}")
    kv = model.num_kv_heads
    if kv % parallel.tensor and parallel.tensor % kv:
        raise LayoutError(
            f"parallel.tensor = {parallel.tensor} must divide the model's num_key_value_heads = {kv} or be a multiple"
        )
    if model.num_layers % parallel.pipeline:
        raise LayoutError(
            f"parallel.pipeline = {parallel.pipeline} must divide the model's num_hidden_layers = {model.num_layers}"
        )
    _check_experts(parallel, world_size, model)
    heads = model.num_heads // parallel.tensor
    if parallel.context_attention == "ulysses" and heads % parallel.context:
        raise LayoutError(
            f"parallel.context = {parallel.context} with context_attention = ulysses must divide the heads of a tensor "
            f"rank, {model.num_heads} / {parallel.tensor} = {heads}; use context_attention = gather"
        )
    virtual = parallel.virtual_stages
    if virtual > 1 and parallel.pipeline == 1:
        raise LayoutError(f"parallel.virtual_stages = {virtual} needs parallel.pipeline > 1, got 1")
    if model.num_layers % (parallel.pipeline * virtual):
        raise LayoutError(
            f"parallel.pipeline × virtual_stages = {parallel.pipeline} × {virtual} must divide the model's "
            f"num_hidden_layers = {model.num_layers}"
        )


def _check_experts(parallel: Parallel, world_size: int, model: ModelConfig) -> None:
    """Experts are never cut: where tensor ranks share the rest of the model, they must share experts out too."""
    if model.experts is None:
        if parallel.expert > 1:
            raise LayoutError(
                f"parallel.expert = {parallel.expert} is for experts, and {model.architecture} has none; use 1"
            )
        return
    stage = world_size // parallel.pipeline
    for size, of in ((model.experts.number, "the model's num_experts"), (stage, "the ranks of a pipeline stage")):
        if size % parallel.expert:
            raise LayoutError(f"parallel.expert = {parallel.expert} must divide {of}, {size}")
    if parallel.tensor > 1 and not (parallel.sequence_parallel and parallel.expert > 1):
        raise LayoutError(
            f"parallel.tensor = {parallel.tensor} with a mixture of experts needs parallel.sequence_parallel (it is "
            f"{parallel.sequence_parallel}) and parallel.expert > 1 (it is {parallel.expert}); use expert = "
            f"{parallel.tensor}"
        )


@dataclass(frozen=True)
class RankGroups:
    """Sizes, and this rank's process groups (`groups`, Megatron's own collection)."""

    parallel: Parallel
    data: int
    groups: ProcessGroupCollection

    @staticmethod
    def create(learner: Learner, model: ModelConfig) -> "RankGroups":
        """Checks the sizes, then builds all process groups (collective). torch.distributed must be initialised.

        Raises LayoutError before any group exists.
        """
        world, parallel = dist.get_world_size(), learner.parallel
        check_ranks(parallel, world, model)
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=parallel.tensor,
            pipeline_model_parallel_size=parallel.pipeline,
            virtual_pipeline_model_parallel_size=parallel.virtual_stages if parallel.virtual_stages > 1 else None,
            context_parallel_size=parallel.context,
            expert_model_parallel_size=parallel.expert,
            expert_tensor_parallel_size=1 if model.experts is not None else None,
            distributed_timeout_minutes=learner.collective_minutes,
        )
        torch.manual_seed(learner.seed)
        model_parallel_cuda_manual_seed(learner.seed)
        data = world // (parallel.tensor * parallel.pipeline * parallel.context)
        return RankGroups(parallel, data, ProcessGroupCollection.use_mpu_process_groups())

    def of(self, model: ModelConfig) -> "RankGroups":
        """The same ranks for another model. Raises LayoutError if it cannot be spread so."""
        check_ranks(self.parallel, dist.get_world_size(), model)
        return self

    @property
    def cut(self) -> Cut:
        """This rank's share of a batch. A packed sequence has two zigzag chunks per context rank, each divisible over
        the tensor ranks under sequence parallelism; interleaved stages take micro-batches in rounds."""
        p = self.parallel
        return Cut(
            ranks=self.data,
            rank=self.groups.dp.rank(),
            context=p.context,
            context_rank=self.groups.cp.rank(),
            alignment=(2 * p.context if p.context > 1 else 1) * (p.tensor if p.sequence_parallel else 1),
            round=p.pipeline if p.virtual_stages > 1 else 1,
            whole=p.context_attention == "ulysses",
        )

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")

    @property
    def is_last_stage(self) -> bool:
        return bool(self.groups.pp.rank() == self.groups.pp.size() - 1)

    @property
    def reports(self) -> bool:
        """True on exactly one rank per data-parallel replica: the one whose loss values count."""
        return self.is_last_stage and self.groups.tp.rank() == 0 and self.groups.cp.rank() == 0

    def describe(self) -> dict[str, int | bool]:
        """The sizes that a checkpoint of this layout can be loaded into."""
        p = self.parallel
        return {
            "tensor": p.tensor,
            "pipeline": p.pipeline,
            "context": p.context,
            "sequence": p.sequence_parallel,
            "data": self.data,
            "virtual": p.virtual_stages,
            **({"expert": p.expert} if p.expert > 1 else {}),
            # Each message's numbers are shared out by themselves, so the optimizer's pieces are other ones.
            **({"overlap": p.overlap_bucket} if p.overlap else {}),
        }
