"""The policy on Megatron-Core: score tokens, take one optimizer step, export and save. Every method is a collective.

policy = MegatronPolicy.create(model_dir, parallel, optimizer, precision, batch, seed)
outcome = policy.train_step(batch, loss)        # forward and backward over packed micro-batches, one step
for name, tensor in policy.export(): ...        # Hugging Face names, complete on rank 0
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
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
from torch import Tensor

from services.learner.backends.common.adapters import peft_names
from services.learner.backends.common.reference import InitialWeights
from services.learner.backends.megatron_core import cpu as megatron_cpu
from services.learner.backends.megatron_core import hf_weights, model, overlap
from services.learner.backends.megatron_core import recompute as selective
from services.learner.backends.megatron_core.attention import PackedSequences
from services.learner.backends.megatron_core.layout import Layout
from services.learner.backends.megatron_core.lora import Lora
from services.learner.backends.megatron_core.optimizer import GuardedOptimizer
from services.learner.backends.megatron_core.state import MegatronState
from services.learner.backends.megatron_core.token_logprobs import token_logprobs
from services.learner.backends.megatron_core.token_scores import token_scores
from services.learner.backends.optim import muon
from services.learner.backends.packing import micro_batches
from services.learner.backends.packing.micro_batches import MicroBatch
from services.learner.checkpoints import directory as checkpoints
from services.learner.huggingface.config import ModelConfig, read_config
from services.learner.huggingface.safetensors_directory import SafetensorsDirectory
from services.learner.interface.batch import Batch
from services.learner.interface.policy import Loss, Scored, ScoreOnly, StepOutcome, stepped
from services.learner.interface.settings import (
    BatchSettings,
    LoraSettings,
    OptimizerSettings,
    ParallelSettings,
    PrecisionSettings,
)
from services.learner.interface.snapshot import Snapshot

megatron_cpu.install()


class MegatronPolicy:
    """One rank's part of the model and its optimizer."""

    def __init__(
        self,
        config: ModelConfig,
        layout: Layout,
        chunks: list[DistributedDataParallel],
        optimizer: GuardedOptimizer,
        precision: PrecisionSettings,
        batching: BatchSettings,
        lora: LoraSettings | None = None,
        adapters: Lora | None = None,
        part: str = "",
    ) -> None:
        self._adapters = adapters
        self._cut = replace(layout.cut, quadratic=config.attention_share)
        self.config, self.layout, self.optimizer = config, layout, optimizer
        self._chunks, self._precision, self._batching = chunks, precision, batching
        self._models = [chunk.module for chunk in chunks]
        self.state = MegatronState(config, layout, self._models, optimizer, precision, lora, part)
        self._as_reference: Callable[[], AbstractContextManager[None]] | None = adapters.off if adapters else None
        self._schedule = get_forward_backward_func(
            pp_size=layout.groups.pp.size(), vp_size=len(chunks) if len(chunks) > 1 else None
        )

    @staticmethod
    def create(
        model_dir: str | Path,
        parallel: ParallelSettings,
        optimizer: OptimizerSettings,
        precision: PrecisionSettings,
        batching: BatchSettings,
        seed: int,
        keep_reference: bool = False,
        lora: LoraSettings | None = None,
        host_reference: bool = False,
        scores: bool = False,
        beside: "MegatronPolicy | None" = None,
    ) -> "MegatronPolicy":
        """Builds groups, model and optimizer from a Hugging Face directory; torch.distributed is initialised.

        keep_reference: keep a copy of the initial weights for `reference_logprobs` (once more the model's memory).
        host_reference: keep it on the host.
        lora: train adapters on the frozen model; its base is the reference, so nothing is copied.
        scores: a model that scores (see Policy); the head of a directory without one starts at zero.
        beside: the policy that this one is the critic of; it has the same layout, and a part of its checkpoints.
        Raises UnsupportedModel, LayoutError, ScheduleError, ValueError: bad input, before anything is allocated.
        """
        muon.check(optimizer, lora)
        config = read_config(model_dir, scores=scores)
        layout = Layout.create(parallel, config, seed) if beside is None else beside.layout.of(config)
        megatron = model.megatron_config(config, layout, precision, batching.recompute)
        shards = model.build(config, megatron, layout)
        if batching.recompute == "selective":
            selective.install(shards)
        hf_weights.load(shards, _initial_weights(model_dir, config), config, layout)
        adapters = Lora(shards, lora, layout, seed) if lora is not None else None
        ddp = overlap.data_parallel(parallel.overlap, optimizer.cut)
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
        guarded = GuardedOptimizer(optimizer, chunks, config, layout, list(hf_weights.mapped_parameters(shards)))
        megatron.finalize_model_grads_func = _finalize
        if precision.weights == "fp16":
            megatron.grad_scale_func = lambda loss: loss * guarded.scale
        part = "" if beside is None else checkpoints.CRITIC
        policy = MegatronPolicy(config, layout, chunks, guarded, precision, batching, lora, adapters, part)
        if keep_reference and lora is None:
            own = [p for shard in shards for p in shard.parameters()]
            policy._as_reference = InitialWeights(own, host_reference).in_place
        return policy

    def logprobs(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """fp32 [T]: log-prob of every trained token under the current weights, 0 elsewhere; on every rank."""
        batch.check(self.config.vocab_size, self.config.max_positions)
        with torch.no_grad():
            logprobs, _, _ = self._run(batch, ScoreOnly(), temperature, forward_only=True)
        return logprobs

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """As `logprobs`, under the weights the policy was created with. Raises RuntimeError without keep_reference
        (or adapters)."""
        if self._as_reference is None:
            raise RuntimeError("the policy was created without keep_reference")
        overlap.settle(self._chunks)
        with self._as_reference():
            return self.logprobs(batch, temperature)

    def train_step(self, batch: Batch, loss: Loss, temperature: float = 1.0) -> StepOutcome:
        """Forward and backward over the batch, then one guarded optimizer step.

        Raises InvalidBatch (a token the model does not know, a sequence beyond its positions), SequenceTooLong,
        NonFiniteGradients (too many steps skipped in a row).
        """
        batch.check(self.config.vocab_size, self.config.max_positions)
        for chunk in self._chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        return stepped(self.optimizer, loss, self._run(batch, loss, temperature, forward_only=False))

    def packing(self, batch: Batch) -> dict[str, float]:
        """See Policy."""
        return micro_batches.describe(batch, self._cut, self._batching.tokens_per_micro_batch)

    def export(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, whole CPU tensor) on rank 0, nothing elsewhere; every rank must drain it. Adapters are
        merged into the weights."""
        overlap.settle(self._chunks)
        if self._adapters is not None:
            return hf_weights.export(self._models, self.config, self.layout, self._adapters.merged)
        return hf_weights.export(self._models, self.config, self.layout)

    def adapters(self) -> Iterator[tuple[str, Tensor]]:
        """As `export`, the adapters alone, under PEFT's names. Raises RuntimeError if there are none."""
        if self._adapters is None:
            raise RuntimeError("the policy was created without adapters")
        overlap.settle(self._chunks)
        for name, tensor in hf_weights.export(self._models, self.config, self.layout, adapters=True):
            module, _, side = name.rpartition(".")
            for peft in peft_names(module, side):
                yield peft, tensor

    def export_gradients(self) -> Iterator[tuple[str, Tensor]]:
        """As `export`, the accumulated gradients; complete only where optimizer.distributed is off or one rank holds
        the whole data and context dimension."""
        return hf_weights.export(self._models, self.config, self.layout, lambda p: p.main_grad)

    def save(self, path: str | Path, extra: dict[str, Any]) -> None:
        """Weights, optimizer, random state and `extra` (JSON) as one atomic directory. Raises CheckpointError."""
        checkpoints.write(path, self.snapshot(), extra)

    def snapshot(self) -> Snapshot:
        """What this rank writes into a checkpoint; refers to live memory."""
        overlap.settle(self._chunks)
        return self.state.snapshot()

    def load(self, path: str | Path) -> dict[str, Any]:
        """Restores a checkpoint of any layout; returns its `extra` (see `MegatronState.load`)."""
        overlap.settle(self._chunks)
        return self.state.load(path)

    def _run(self, batch: Batch, loss: Loss, temperature: float, forward_only: bool) -> tuple[Tensor, Tensor, int]:
        """Log-probs of trained tokens [T], [loss, *statistics] summed over the batch (both equal on every rank), and
        the number of micro-batches."""
        parts = micro_batches.build(batch, self._cut, self._batching.tokens_per_micro_batch)
        logprobs = torch.zeros_like(batch.behaviour)
        sums = torch.zeros(1 + len(loss.names), dtype=torch.float64, device=batch.tokens.device)
        overlap.tell_schedule(self._chunks[0].config, self._chunks, forward_only)
        settings: dict[str, Any] = {"pg_collection": self.layout.groups}
        if self.layout.parallel.pipeline > 1:
            settings["p2p_communicator"] = P2PCommunicator(
                pp_group=self.layout.groups.pp, config=self._chunks[0].config
            )
        self._schedule(
            forward_step_func=partial(self._forward, loss=loss, temperature=temperature, logprobs=logprobs, sums=sums),
            data_iterator=[iter(parts) for _ in self._chunks] if len(self._chunks) > 1 else iter(parts),
            model=self._chunks if len(self._chunks) > 1 else self._chunks[0],
            num_microbatches=len(parts),
            seq_length=parts[0].tokens.shape[1] * self.layout.parallel.context,
            micro_batch_size=1,
            forward_only=forward_only,
            **settings,
        )
        if not self.layout.reports:
            logprobs.zero_()
            sums.zero_()
        if dist.get_world_size() > 1:
            dist.all_reduce(logprobs)
            dist.all_reduce(sums)
        return logprobs, sums, len(parts)

    def _forward(
        self,
        parts: Iterator[MicroBatch],
        network: Any,
        *,
        loss: Loss,
        temperature: float,
        logprobs: Tensor,
        sums: Tensor,
    ) -> tuple[Tensor, Any]:
        """Megatron's forward step: hidden states now, the loss when it calls back on the last stage."""
        part = next(parts)

        def finish(hidden: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            scored = self._score(part, hidden, temperature)
            value, stats = loss(scored)
            logprobs[scored.index] = scored.current.detach()
            sums.add_(torch.cat([value.detach().to(torch.float64).view(1), stats]))
            # The loss is globally normalised already, so no token count: _finalize does not divide.
            return value, torch.zeros((), dtype=torch.int, device=value.device), {}

        packed = PackedSequences.of(part.pack, part.tokens.device)
        return network(part.tokens, part.positions, None, packed_seq_params=packed), finish

    def _score(self, part: MicroBatch, hidden: Tensor, temperature: float) -> Scored:
        """What the head says of the trained tokens, gathered over context ranks so that sequences are whole."""
        head, tp, sequence = self._head_weight(), self.layout.groups.tp, self.layout.parallel.sequence
        if self.config.scores:
            logprobs = token_scores(hidden, head, part.rows, tp, sequence_parallel=sequence)[:, None]
            entropy = torch.zeros_like(logprobs[:, 0])
        else:
            logprobs, entropy = token_logprobs(
                hidden,
                head,
                part.rows,
                part.targets,
                tp,
                self.config.vocab_size,
                sequence_parallel=sequence,
                temperature=temperature,
                chunk=self._batching.head_chunk,
                fp32_logits=self._precision.fp32_logits,
            )
        if part.join is not None:
            both = torch.cat([logprobs, entropy[:, None]], 1)
            local = both.new_zeros(part.tokens.shape[1], both.shape[1]).index_copy(0, part.rows, both)
            # Every context rank computes the same loss of the whole, so each keeps its own slice of the gradient.
            whole = gather_from_sequence_parallel_region(local, False, self.layout.groups.cp)
            logprobs, entropy = whole.index_select(0, part.join).split([both.shape[1] - 1, 1], 1)
            entropy = entropy[:, 0]
        return Scored.of(logprobs, entropy, part.index, part.sequence, part.sequences)

    def _head_weight(self) -> Tensor:
        """Of the output layer, which is not called as a module."""
        weight = self._models[-1].head_weight()
        overlap.settle_weight(self._chunks[-1], weight)
        return weight


def _initial_weights(model_dir: str | Path, config: ModelConfig) -> Callable[[str], Tensor]:
    """The directory's tensors. A score that it lacks is zero: every answer starts equal, under every layout alike."""
    directory = SafetensorsDirectory(model_dir)

    def get(name: str) -> Tensor:
        if name == hf_weights.SCORE and name not in directory.names:
            return torch.zeros(1, config.hidden_size)
        return directory.get(name)

    return get


def _finalize(network: list[Any], num_tokens: Tensor | None, **groups: Any) -> None:
    """Reduces gradients over data, context, tensor (norms under sequence parallelism) and tied embeddings, without
    Megatron's division by a token count: the loss is normalised over the whole batch before."""
    finalize_model_grads(network, None, **groups)
