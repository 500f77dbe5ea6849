"""The policy on Megatron-Core: score tokens, take one optimizer step, export. Every method is a collective.

policy = MegatronPolicy.create(spec)
outcome = policy.train_step(batch, loss)        # forward and backward over packed micro-batches, one step
for name, tensor in policy.export(): ...        # Hugging Face names, complete on rank 0
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor

from penstock.trajectories import RouteShape
from services.learner.backends.common.adapters import peft_names
from services.learner.backends.common.expert_load import ExpertLoad
from services.learner.backends.common.policy_base import PolicyBase
from services.learner.backends.common.router_balance import RouterBalance
from services.learner.backends.megatron_core import conversion, model, overlap, recompute
from services.learner.backends.megatron_core import cpu as megatron_cpu
from services.learner.backends.megatron_core.attention import PackedSequences
from services.learner.backends.megatron_core.heads import token_logprobs, token_scores
from services.learner.backends.megatron_core.layout import RankGroups
from services.learner.backends.megatron_core.lora import Adapters
from services.learner.backends.megatron_core.optimizer import GuardedOptimizer
from services.learner.backends.megatron_core.replay import RouterReplay
from services.learner.backends.megatron_core.state import MegatronState
from services.learner.backends.optim.muon import check_muon
from services.learner.backends.packing.building import MicroBatch
from services.learner.checkpoints import directory as checkpoints
from services.learner.huggingface.config import ModelConfig, read_config
from services.learner.huggingface.safetensors_directory import SafetensorsDirectory
from services.learner.huggingface.tied import check_tied
from services.learner.interface.batch import Batch
from services.learner.interface.policy import Loss, TokenScores
from services.learner.interface.policy_spec import PolicySpec

megatron_cpu.install()


class MegatronPolicy(PolicyBase):
    """One rank's part of the model and its optimizer."""

    optimizer: GuardedOptimizer
    state: MegatronState

    def __init__(
        self,
        spec: PolicySpec,
        config: ModelConfig,
        layout: RankGroups,
        chunks: list[DistributedDataParallel],
        optimizer: GuardedOptimizer,
        adapters: Adapters | None,
        part: str,
    ) -> None:
        """part: see MegatronState."""
        self._adapters, self._chunks, self._models = adapters, chunks, [chunk.module for chunk in chunks]
        self.config, self.layout = config, layout
        layers = [layer for network in self._models for layer in network.decoder.layers]
        replays = spec.replays_routes and config.experts is not None
        super().__init__(
            spec,
            replace(
                layout.cut,
                quadratic=config.attention_share,
                shares=spec.learner.share_prefixes,
                keeps_ends=spec.router_coefficient > 0,
                layers=tuple(layer.layer_number - 1 for layer in layers) if replays else (),
            ),
            (config.vocab_size, config.max_positions),
            optimizer,
            MegatronState(config, layout, self._models, optimizer, spec, part),
            adapters.off if adapters is not None else None,
        )
        self._balance: RouterBalance | None = None
        self._load: ExpertLoad | None = None
        self._replay: RouterReplay | None = None
        if config.experts is not None and replays:
            tensor = (layout.groups.tp.size(), layout.groups.tp.rank())
            self._replay = RouterReplay(layers, config.experts.number, tensor, layout.device)
        self._schedule = get_forward_backward_func(
            pp_size=layout.groups.pp.size(), vp_size=len(chunks) if len(chunks) > 1 else None
        )

    @staticmethod
    def create(spec: PolicySpec, beside: "MegatronPolicy | None" = None) -> "MegatronPolicy":
        """Builds groups, model and optimizer from a Hugging Face directory; torch.distributed is initialised.

        beside: the policy that this one is the critic of; it has the same layout, and a part of its checkpoints.
        Raises UnsupportedModel, LayoutError, ScheduleError, ValueError: bad input, before anything is allocated.
        """
        check_muon(spec)
        learner = spec.learner
        config = read_config(spec.path, scores=spec.scores)
        check_tied(spec.path, config.tied_embeddings)
        layout = RankGroups.create(learner, config) if beside is None else beside.layout.of(config)
        megatron = model.megatron_config(config, layout, spec)
        shards = model.build(config, megatron, layout)
        if learner.recompute == "selective":
            recompute.install(shards)
        conversion.load(shards, _initial_weights(spec.path, config), config, layout)
        adapters = Adapters(shards, learner.lora, layout, learner.seed) if learner.lora is not None else None
        ddp = overlap.data_parallel(learner.parallel, spec.cuts_optimizer)
        chunks = [
            DistributedDataParallel(
                config=megatron,
                ddp_config=ddp,
                module=shard,
                disable_bucketing=i > 0,  # the first chunk's backward pass is the last: only it is worth cutting up
                pg_collection=layout.groups,
            )
            for i, shard in enumerate(shards)
        ]
        guarded = GuardedOptimizer(spec, chunks, config, layout, list(conversion.mapped_parameters(shards)))
        megatron.finalize_model_grads_func = _finalize
        if spec.dtype == "float16":
            megatron.grad_scale_func = lambda loss: loss * guarded.scale
        part = "" if beside is None else checkpoints.CRITIC
        policy = MegatronPolicy(spec, config, layout, chunks, guarded, adapters, part)
        routers = [module for shard in shards for module in shard.modules() if isinstance(module, TopKRouter)]
        if config.experts is not None:
            numbered = [(router.layer_number - 1, router) for router in routers]
            policy._load = ExpertLoad(numbered, config.num_layers, config.experts.number, layout.device)
        if spec.router_coefficient and config.experts is not None:
            policy._balance = RouterBalance(
                routers, config.experts.per_token, config.num_layers, spec.router_coefficient, lambda: guarded.scale
            )
        policy._keep_reference({p.name: p.parameter for p in policy.state.mapped()})
        return policy

    @property
    def architecture(self) -> str:
        return self.config.architecture

    def export(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, whole CPU tensor) on rank 0, nothing elsewhere; every rank must drain it. Adapters are
        merged into the weights."""
        self._settle()
        if self._adapters is not None:
            return conversion.export(self._models, self.config, self.layout, self._adapters.merged)
        return conversion.export(self._models, self.config, self.layout)

    def owned(self) -> Iterator[tuple[str, Tensor]]:
        """As `export`, on every rank those that it publishes."""
        self._settle()
        if self._adapters is not None:
            return conversion.owned(self._models, self.config, self.layout, self._adapters.merged)
        return conversion.owned(self._models, self.config, self.layout)

    def _export_adapters(self) -> Iterator[tuple[str, Tensor]]:
        self._settle()
        for name, tensor in conversion.export(self._models, self.config, self.layout, adapters=True):
            module, _, side = name.rpartition(".")
            for peft in peft_names(module, side):
                yield peft, tensor

    def _settle(self) -> None:
        overlap.settle(self._chunks)

    def _zero_grad(self) -> None:
        for chunk in self._chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()

    def _experts_used(self) -> dict[str, float]:
        found = {} if self._load is None else self._load.said()
        return found if self._replay is None else found | self._replay.said()

    def _replayed(self) -> RouteShape | None:
        experts = self.config.experts
        if self._replay is None or experts is None:
            return None
        return RouteShape(self.config.num_layers, experts.per_token, experts.number)

    def _routed_anew(self) -> AbstractContextManager[None]:
        return nullcontext() if self._replay is None else self._replay.off()

    def _run(
        self, batch: Batch, parts: list[MicroBatch], loss: Loss, temperature: float, training: bool
    ) -> tuple[Tensor, Tensor]:
        if self._load is not None:
            self._load.begin()
        if self._replay is not None:
            self._replay.begin()
        said = torch.stack([torch.zeros_like(batch.behaviour)] * 3)
        if self._balance is not None:
            self._balance.batch(batch)
        sums = torch.zeros(1 + len(loss.names), dtype=torch.float64, device=batch.tokens.device)
        overlap.tell_schedule(self._chunks[0].config, self._chunks, not training)
        settings: dict[str, Any] = {"pg_collection": self.layout.groups}
        if self.layout.parallel.pipeline > 1:
            settings["p2p_communicator"] = P2PCommunicator(
                pp_group=self.layout.groups.pp, config=self._chunks[0].config
            )
        self._schedule(
            forward_step_func=partial(self._forward, loss=loss, temperature=temperature, said=said, sums=sums),
            data_iterator=[iter(parts) for _ in self._chunks] if len(self._chunks) > 1 else iter(parts),
            model=self._chunks if len(self._chunks) > 1 else self._chunks[0],
            num_microbatches=len(parts),
            seq_length=parts[0].tokens.shape[1] * self.layout.parallel.context,
            micro_batch_size=1,
            forward_only=not training,
            **settings,
        )
        if not self.layout.reports:
            said.zero_()
            sums.zero_()
        if dist.get_world_size() > 1:
            dist.all_reduce(said)
            dist.all_reduce(sums)
        return said, sums

    def _forward(
        self,
        parts: Iterator[MicroBatch],
        network: Any,
        *,
        loss: Loss,
        temperature: float,
        said: Tensor,
        sums: Tensor,
    ) -> tuple[Tensor, Any]:
        """Megatron's forward step: hidden states now, the loss when it calls back on the last stage."""
        part = next(parts)
        if self._balance is not None:
            self._balance.micro_batch(part)

        def finish(hidden: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            scored = self._scored(part, hidden, temperature)
            value, stats = loss(scored)
            said[:, scored.index] = scored.said()
            sums.add_(torch.cat([value.detach().to(torch.float64).view(1), stats]))
            # The loss is globally normalised already, so no token count: _finalize does not divide.
            return value, torch.zeros((), dtype=torch.int, device=value.device), {}

        packed = PackedSequences.of(part.pack, part.tokens.device)
        return network(part.tokens, part.positions, None, packed_seq_params=packed), finish

    def _scored(self, part: MicroBatch, hidden: Tensor, temperature: float) -> TokenScores:
        """What the head says of the trained tokens, gathered over context ranks so that sequences are whole."""
        head, tp, sequence = self._head_weight(), self.layout.groups.tp, self.layout.parallel.sequence_parallel
        if self.config.scores:
            logprobs = token_scores(hidden, head, part.rows, tp, sequence_parallel=sequence)[:, None]
            entropy = collision = torch.zeros_like(logprobs[:, 0])
        else:
            logprobs, entropy, collision = token_logprobs(
                hidden,
                head,
                part.rows,
                part.targets,
                tp,
                self.config.vocab_size,
                sequence_parallel=sequence,
                temperature=temperature,
                chunk=self.spec.head_chunk,
            )
        if part.join is not None:
            found = torch.cat([logprobs, entropy[:, None], collision[:, None]], 1)
            local = torch.cat([found, found.new_zeros(part.room - len(found), found.shape[1])])
            # Every context rank computes the same loss of the whole, so each keeps its own slice of the gradient.
            whole = gather_from_sequence_parallel_region(local, False, self.layout.groups.cp)
            logprobs, ends = whole.index_select(0, part.join).split([found.shape[1] - 2, 2], 1)
            entropy, collision = ends[:, 0], ends[:, 1].detach()
        return TokenScores.of(logprobs, entropy, collision, part.index, part.sequence, part.sequences)

    def _head_weight(self) -> Tensor:
        """Of the output layer, which is not called as a module."""
        weight = self._models[-1].head_weight()
        overlap.settle_weight(self._chunks[-1], weight)
        return weight


def _initial_weights(model_dir: str | Path, config: ModelConfig) -> Callable[[str], Tensor]:
    """The directory's tensors. A score that it lacks is zero: every answer starts equal, under every layout alike."""
    directory = SafetensorsDirectory(model_dir)

    def get(name: str) -> Tensor:
        if name == conversion.SCORE and name not in directory.names:
            return torch.zeros(1, config.hidden_size)
        return directory.get(name)

    return get


def _finalize(network: list[Any], num_tokens: Tensor | None, **groups: Any) -> None:
    """Reduces gradients over data, context, tensor (norms under sequence parallelism) and tied embeddings, without
    Megatron's division by a token count: the loss is normalised over the whole batch before."""
    finalize_model_grads(network, None, **groups)
