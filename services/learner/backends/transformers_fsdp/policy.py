"""The policy on Hugging Face transformers, fully sharded: any causal language model that transformers loads.

    policy = TransformersPolicy.create(spec)

The same micro-batches, losses, chunked output layer and checkpoints' unit as on Megatron; weights, gradients and
optimizer state over data ranks (FSDP2), and matrices over tensor ranks where the model carries a plan for that. Every
method is a collective.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from services.learner.backends.common.adapters import peft_names
from services.learner.backends.common.chunked_head import chunked_logprobs
from services.learner.backends.common.owners import Owners
from services.learner.backends.common.policy_base import PolicyBase
from services.learner.backends.optim.muon import check_muon
from services.learner.backends.packing.building import Cut, MicroBatch
from services.learner.backends.transformers_fsdp import fully_sharded, recompute, trial
from services.learner.backends.transformers_fsdp import model as transformers_model
from services.learner.backends.transformers_fsdp.layout import Ranks
from services.learner.backends.transformers_fsdp.lora import Adapters, is_adapter
from services.learner.backends.transformers_fsdp.optimizer import ShardedOptimizer
from services.learner.backends.transformers_fsdp.state import TransformersState
from services.learner.backends.transformers_fsdp.tensor_plan import TensorPlan
from services.learner.checkpoints import directory as checkpoints
from services.learner.interface.batch import Batch
from services.learner.interface.errors import LayoutError
from services.learner.interface.policy import Loss, TokenScores
from services.learner.interface.policy_spec import PolicySpec

log = logging.getLogger(__name__)

UNLIMITED = 2**31


class WithHead(torch.nn.Module):
    """The model and its output layer as one module: what is gathered for it lasts until the log-probabilities are
    there. `model` is transformers' causal language model, or its sequence classifier where it scores."""

    def __init__(self, model: Any, head_chunk: int | None) -> None:
        super().__init__()
        self.model, self._head_chunk = model, head_chunk

    def forward(self, part: MicroBatch, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the trained tokens and their alternatives, fp32 [n, 1 + K], entropies, collisions, fp32
        [n] (see `chunked_logprobs`); or scores [n, 1] and zeros."""
        hidden = transformers_model.forward(self.model, part.tokens, part.positions, part.pack)[0]
        head = transformers_model.head_of(self.model).weight
        if self.model.get_output_embeddings() is None:
            scores = F.linear(hidden.float(), head.float()).index_select(0, part.rows)
            return scores, torch.zeros_like(scores[:, 0]), torch.zeros_like(scores[:, 0])
        return chunked_logprobs(
            hidden,
            head,
            part.targets,
            head.shape[0],
            temperature=temperature,
            chunk=self._head_chunk,
            rows=part.rows,
        )


class TransformersPolicy(PolicyBase):
    """One rank's part of the model and its optimizer."""

    optimizer: ShardedOptimizer
    state: TransformersState

    def __init__(
        self,
        spec: PolicySpec,
        network: WithHead,
        optimizer: ShardedOptimizer,
        state: TransformersState,
        device: torch.device,
        adapters: Adapters | None,
        ranks: Ranks,
        cut: Cut,
        plan: TensorPlan,
    ) -> None:
        config = network.model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None) or UNLIMITED
        super().__init__(
            spec,
            replace(cut, quadratic=transformers_model.attention_share(network.model)),
            (transformers_model.vocabulary_of(network.model), positions),
            optimizer,
            state,
            adapters.off if adapters is not None else None,
        )
        self.device, self._network, self._adapters = device, network, adapters
        self._ranks, self._tensor_plan = ranks, plan

    @staticmethod
    def create(spec: PolicySpec, beside: "TransformersPolicy | None" = None) -> "TransformersPolicy":
        """Builds model and optimizer from a Hugging Face directory; torch.distributed is initialised.

        beside: the policy that this one is the critic of; it has the same layout, and a part of its checkpoints.
        Raises UnsupportedModel, LayoutError, ScheduleError, ValueError: bad input.
        """
        learner, tensor = spec.learner, spec.learner.parallel.tensor
        if tensor > 1 and learner.lora is not None:
            raise LayoutError(
                f"parallel.tensor = {tensor}: backend transformers has no adapters on matrices that are cut; "
                "use 1, or backend megatron"
            )
        check_muon(spec)
        torch.manual_seed(learner.seed)
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        ranks = Ranks.of(learner, device) if beside is None else beside._ranks
        config = transformers_model.read_config(spec.path, spec.scores)
        whole, (way, shares) = trial.together(lambda: trial.load_and_try(spec.path, config, spec.scores))
        model = transformers_model.skeleton(config, way, spec.scores)
        if learner.share_prefixes and not shares:
            log.warning("what samples begin with alike is computed for each: %s cannot share it", type(model).__name__)
        layers = transformers_model.layers_of(model)
        plan = TensorPlan(model, layers, ranks)
        expected = trial.said_of_sequences(whole) if tensor > 1 else None
        recompute.install(model, layers, learner.recompute)
        adapters = Adapters(model, layers, learner.lora, learner.seed, device) if learner.lora is not None else None
        network = WithHead(model, spec.head_chunk)
        source = WithHead(whole, spec.head_chunk) if whole is not None else None
        fully_sharded.shard(network, layers, source, device, spec.torch_dtype, ranks.data_mesh, plan.cut)
        parameters = dict(model.named_parameters())
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        copies = {name: plan.copies(name) for name in trained}
        optimizer = ShardedOptimizer(spec, trained, transformers_model.hidden_matrices(model), copies)
        part = "" if beside is None else checkpoints.CRITIC
        state = TransformersState(parameters, optimizer, config.to_dict(), spec, ranks, plan, part)
        cut = replace(ranks.cut, shares=learner.share_prefixes and shares)
        policy = TransformersPolicy(spec, network, optimizer, state, device, adapters, ranks, cut, plan)
        if expected is not None:
            trial.check_cut(model, expected.to(device), policy.scores if spec.scores else policy.logprobs)
        policy._keep_reference({name: fully_sharded.slice_of(p) for name, p in parameters.items()})
        return policy

    @property
    def architecture(self) -> str:
        return type(self._network.model).__name__

    def export(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, whole CPU tensor) on rank 0, nothing elsewhere; every rank must drain it. Adapters are
        merged into the weights."""
        return self._gathered(Owners(1))

    def owned(self) -> Iterator[tuple[str, Tensor]]:
        """As `export`, on every rank those that it publishes."""
        return self._gathered(Owners(dist.get_world_size()))

    @torch.no_grad()
    def _gathered(self, owners: Owners) -> Iterator[tuple[str, Tensor]]:
        own = dist.get_rank()
        for name, parameter in self._network.model.named_parameters():
            if is_adapter(name):
                continue
            whole = parameter.full_tensor()
            if self._adapters is not None:
                whole = self._adapters.merged(name, whole)
            if owners.next(whole.nbytes) == own:
                yield name, whole.to("cpu", self.spec.torch_dtype, copy=True).contiguous()
        persistent = self._network.model.state_dict().keys()
        for name, buffer in self._network.model.named_buffers():
            if name in persistent and owners.next(buffer.nbytes) == own:
                yield name, buffer.to("cpu", copy=True)

    @torch.no_grad()
    def _export_adapters(self) -> Iterator[tuple[str, Tensor]]:
        assert self._adapters is not None
        for name, a, b in self._adapters.named():
            for side, parameter in (("lora_A", a), ("lora_B", b)):
                whole = parameter.full_tensor()
                if dist.get_rank() == 0:
                    (peft,) = peft_names(name.removesuffix(".weight"), side)
                    yield peft, whole.to("cpu", copy=True).contiguous()

    def _settle(self) -> None:
        return  # slices are always whole: FSDP2 gathers copies

    def _run(
        self, batch: Batch, parts: list[MicroBatch], loss: Loss, temperature: float, training: bool
    ) -> tuple[Tensor, Tensor]:
        said = torch.stack([torch.zeros_like(batch.behaviour)] * 3)
        sums = torch.zeros(1 + len(loss.names), dtype=torch.float64, device=batch.tokens.device)
        for part in parts:
            logprobs, entropy, collision = self._network(part, temperature)
            scored = TokenScores.of(logprobs, entropy, collision, part.index, part.sequence, part.sequences)
            value, stats = loss(scored)
            if training:
                (value * self.optimizer.scale).backward()
            said[:, part.index] = scored.said()
            sums.add_(torch.cat([value.detach().to(torch.float64).view(1), stats]))
        if training:
            self._tensor_plan.add_up(dict(self._network.model.named_parameters()))
        if self._ranks.data > 1:
            dist.all_reduce(said, group=self._ranks.data_mesh.get_group())
            dist.all_reduce(sums, group=self._ranks.data_mesh.get_group())
        return said, sums
