"""The policy on Hugging Face transformers, fully sharded: any causal language model that transformers loads.

    policy = TransformersPolicy.create(model_dir, parallel, optimizer, precision, batch, seed)

The same micro-batches, losses, chunked output layer and checkpoints' unit as on Megatron; weights, gradients and
optimizer state over data ranks (FSDP2), and matrices over tensor ranks where the model carries a plan for that. Every
method is a collective.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from services.learner.backends.common.adapters import peft_names
from services.learner.backends.common.chunked_head import chunked_logprobs
from services.learner.backends.common.reference import InitialWeights
from services.learner.backends.optim import muon
from services.learner.backends.packing import micro_batches
from services.learner.backends.packing.micro_batches import MicroBatch
from services.learner.backends.transformers_fsdp import fully_sharded
from services.learner.backends.transformers_fsdp import model as transformers_model
from services.learner.backends.transformers_fsdp import recompute as transformers_recompute
from services.learner.backends.transformers_fsdp.layout import Ranks
from services.learner.backends.transformers_fsdp.lora import Lora, is_adapter
from services.learner.backends.transformers_fsdp.optimizer import ShardedOptimizer
from services.learner.backends.transformers_fsdp.state import TransformersState
from services.learner.backends.transformers_fsdp.tensor_plan import TensorPlan
from services.learner.checkpoints import directory as checkpoints
from services.learner.interface.batch import Batch
from services.learner.interface.policy import Loss, Scored, ScoreOnly, StepOutcome, stepped
from services.learner.interface.settings import (
    BatchSettings,
    LayoutError,
    LoraSettings,
    OptimizerSettings,
    ParallelSettings,
    PrecisionSettings,
)
from services.learner.interface.snapshot import Snapshot

UNLIMITED = 2**31


class Scorer(torch.nn.Module):
    """The model and its output layer as one module: what is gathered for it lasts until the log-probabilities are
    there. `model` is transformers' causal language model, or its sequence classifier where it scores."""

    def __init__(self, model: Any, batching: BatchSettings, precision: PrecisionSettings) -> None:
        super().__init__()
        self.model, self._batching, self._precision = model, batching, precision

    def forward(self, part: MicroBatch, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the trained tokens and their alternatives, fp32 [n, 1 + K], and entropies, fp32 [n]; or
        scores [n, 1] and zeros."""
        hidden = transformers_model.forward(self.model, part.tokens, part.positions, part.pack)[0]
        head = transformers_model.head_of(self.model).weight
        if self.model.get_output_embeddings() is None:
            scores = F.linear(hidden.index_select(0, part.rows).float(), head.float())
            return scores, torch.zeros_like(scores[:, 0])
        return chunked_logprobs(
            hidden.index_select(0, part.rows),
            head,
            part.targets,
            head.shape[0],
            temperature=temperature,
            chunk=self._batching.head_chunk,
            fp32_logits=self._precision.fp32_logits,
        )


class TransformersPolicy:
    """One rank's part of the model and its optimizer."""

    def __init__(
        self,
        scorer: Scorer,
        optimizer: ShardedOptimizer,
        state: TransformersState,
        precision: PrecisionSettings,
        batching: BatchSettings,
        device: torch.device,
        adapters: Lora | None,
        ranks: Ranks,
        plan: TensorPlan,
    ) -> None:
        self.optimizer, self.state, self.device = optimizer, state, device
        self._scorer, self._precision, self._batching, self._adapters = scorer, precision, batching, adapters
        config = scorer.model.config.get_text_config()
        self._vocabulary = transformers_model.vocabulary_of(scorer.model)
        self._positions = getattr(config, "max_position_embeddings", None) or UNLIMITED
        self._as_reference: Callable[[], AbstractContextManager[None]] | None = adapters.off if adapters else None
        self._ranks, self._plan = ranks, plan
        self._cut = replace(ranks.cut, quadratic=transformers_model.attention_share(scorer.model))

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
        beside: "TransformersPolicy | None" = None,
    ) -> "TransformersPolicy":
        """Builds model and optimizer from a Hugging Face directory; torch.distributed is initialised.

        keep_reference: keep a copy of the initial weights for `reference_logprobs` (once more the model's memory).
        host_reference: keep it on the host.
        lora: train adapters on the frozen model; its base is the reference, so nothing is copied.
        scores: a model that scores (see Policy); the score of a directory without one starts at zero.
        beside: the policy that this one is the critic of; it has the same layout, and a part of its checkpoints.
        Raises UnsupportedModel, LayoutError, ScheduleError, ValueError: bad input.
        """
        if parallel.tensor > 1 and lora is not None:
            raise LayoutError(
                f"parallel.tensor = {parallel.tensor}: backend transformers has no adapters on matrices that are cut; "
                "use 1, or backend megatron"
            )
        muon.check(optimizer, lora)
        torch.manual_seed(seed)
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        ranks = Ranks.of(parallel, device) if beside is None else beside._ranks
        config = transformers_model.read_config(model_dir, scores)
        whole, way = transformers_model.together(lambda: transformers_model.load_and_try(model_dir, config, scores))
        model = transformers_model.skeleton(config, way, scores)
        layers = transformers_model.layers_of(model)
        plan = TensorPlan(model, layers, ranks)
        expected = transformers_model.said_of_sequences(whole) if parallel.tensor > 1 else None
        transformers_recompute.install(model, layers, batching.recompute)
        adapters = Lora(model, layers, lora, seed, device) if lora is not None else None
        scorer = Scorer(model, batching, precision)
        source = Scorer(whole, batching, precision) if whole is not None else None
        fully_sharded.shard(scorer, layers, source, device, precision, ranks.data_mesh, plan.cut)
        parameters = dict(model.named_parameters())
        trained = {name: p for name, p in parameters.items() if p.requires_grad}
        hidden = transformers_model.hidden_matrices(model)
        copies = {name: plan.copies(name) for name in trained}
        stepped = ShardedOptimizer(optimizer, trained, hidden, precision.weights == "fp16", copies)
        part = "" if beside is None else checkpoints.CRITIC
        state = TransformersState(parameters, stepped, config.to_dict(), precision, lora, ranks, plan, part)
        policy = TransformersPolicy(scorer, stepped, state, precision, batching, device, adapters, ranks, plan)
        if expected is not None:
            transformers_model.check_cut(model, expected.to(device), policy.logprobs)
        if keep_reference and lora is None:
            own = [fully_sharded.slice_of(p) for p in parameters.values()]
            policy._as_reference = InitialWeights(own, host_reference).in_place
        return policy

    def logprobs(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """fp32 [T]: log-prob of every trained token under the current weights, 0 elsewhere; on every rank."""
        with torch.no_grad():
            logprobs, _, _ = self._run(batch, ScoreOnly(), temperature)
        return logprobs

    @torch.no_grad()
    def reference_logprobs(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """As `logprobs`, under the weights the policy was created with. Raises RuntimeError without keep_reference
        (or adapters)."""
        if self._as_reference is None:
            raise RuntimeError("the policy was created without keep_reference")
        with self._as_reference():
            return self.logprobs(batch, temperature)

    def train_step(self, batch: Batch, loss: Loss, temperature: float = 1.0) -> StepOutcome:
        """Forward and backward over the batch, then one guarded optimizer step.

        Raises InvalidBatch, SequenceTooLong, NonFiniteGradients (too many steps skipped in a row).
        """
        self.optimizer.zero_grad()
        return stepped(self.optimizer, loss, self._run(batch, loss, temperature))

    def packing(self, batch: Batch) -> dict[str, float]:
        """See Policy."""
        return micro_batches.describe(batch, self._cut, self._batching.tokens_per_micro_batch)

    @torch.no_grad()
    def export(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, whole CPU tensor) on rank 0, nothing elsewhere; every rank must drain it. Adapters are
        merged into the weights."""
        for name, parameter in self._scorer.model.named_parameters():
            if is_adapter(name):
                continue
            whole = parameter.full_tensor()
            if self._adapters is not None:
                whole = self._adapters.merged(name, whole)
            if dist.get_rank() == 0:
                yield name, whole.to("cpu", self._precision.dtype, copy=True).contiguous()
        if dist.get_rank() == 0:
            persistent = self._scorer.model.state_dict().keys()
            for name, buffer in self._scorer.model.named_buffers():
                if name in persistent:
                    yield name, buffer.to("cpu", copy=True)

    @torch.no_grad()
    def adapters(self) -> Iterator[tuple[str, Tensor]]:
        """As `export`, the adapters alone, under PEFT's names. Raises RuntimeError if there are none."""
        if self._adapters is None:
            raise RuntimeError("the policy was created without adapters")
        for name, a, b in self._adapters.named():
            for side, parameter in (("lora_A", a), ("lora_B", b)):
                whole = parameter.full_tensor()
                if dist.get_rank() == 0:
                    (peft,) = peft_names(name.removesuffix(".weight"), side)
                    yield peft, whole.to("cpu", copy=True).contiguous()

    @torch.no_grad()
    def export_gradients(self) -> Iterator[tuple[str, Tensor]]:
        """As `export`, the accumulated gradients of what is trained."""
        for name, parameter in self._scorer.model.named_parameters():
            if parameter.grad is not None:
                whole = parameter.grad.full_tensor()
                if dist.get_rank() == 0:
                    yield name, whole.to("cpu", copy=True)

    def save(self, path: str | Path, extra: dict[str, Any]) -> None:
        """Weights, optimizer, random state and `extra` (JSON) as one atomic directory. Raises CheckpointError."""
        checkpoints.write(path, self.snapshot(), extra)

    def snapshot(self) -> Snapshot:
        """What this rank writes into a checkpoint; refers to live memory."""
        return self.state.snapshot()

    def load(self, path: str | Path) -> dict[str, Any]:
        """Restores a checkpoint of any number of ranks; returns its `extra`. Raises as `Policy.load`."""
        return self.state.load(path)

    def _run(self, batch: Batch, loss: Loss, temperature: float) -> tuple[Tensor, Tensor, int]:
        """Log-probs of trained tokens [T], [loss, *statistics] summed over the batch (both equal on every rank), and
        the number of micro-batches. Gradients are accumulated where they are enabled."""
        batch.check(self._vocabulary, self._positions)
        parts = micro_batches.build(batch, self._cut, self._batching.tokens_per_micro_batch)
        logprobs = torch.zeros_like(batch.behaviour)
        sums = torch.zeros(1 + len(loss.names), dtype=torch.float64, device=batch.tokens.device)
        for part in parts:
            said, entropy = self._scorer(part, temperature)
            scored = Scored.of(said, entropy, part.index, part.sequence, part.sequences)
            value, stats = loss(scored)
            if torch.is_grad_enabled():
                (value * self.optimizer.scale).backward()
            logprobs[part.index] = scored.current.detach()
            sums.add_(torch.cat([value.detach().to(torch.float64).view(1), stats]))
        if torch.is_grad_enabled():
            self._plan.add_up(dict(self._scorer.model.named_parameters()))
        if self._ranks.data > 1:
            dist.all_reduce(logprobs, group=self._ranks.data_mesh.get_group())
            dist.all_reduce(sums, group=self._ranks.data_mesh.get_group())
        return logprobs, sums, len(parts)
