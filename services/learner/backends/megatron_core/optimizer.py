"""Megatron's (distributed) AdamW with what a learner service needs around it: a step that is skipped when a gradient is
not finite, a state that can be saved and loaded exactly per rank, and Muon for hidden matrices where it is asked for.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer.grad_scaler import ConstantGradScaler
from torch import Tensor

from services.learner.backends.common.host_memory import MOMENTS, HostedState, at_home
from services.learner.backends.megatron_core.conversion import MappedParameter
from services.learner.backends.megatron_core.layout import RankGroups
from services.learner.backends.megatron_core.optimizer_shards import Piece, pieces
from services.learner.backends.megatron_core.whole_matrices import MegatronMatrices
from services.learner.backends.optim.guard import Guard
from services.learner.backends.optim.muon import MOMENTUM, Muon
from services.learner.huggingface.config import ModelConfig
from services.learner.interface.policy_spec import PolicySpec


class GuardedOptimizer(Guard):
    """Steps with the scheduled learning rate; a step whose gradient norm is not finite changes nothing."""

    def __init__(
        self,
        spec: PolicySpec,
        chunks: list[DistributedDataParallel],
        model: ModelConfig,
        layout: RankGroups,
        mapped: Sequence[MappedParameter],
    ) -> None:
        """mapped: this rank's parameters. Raises schedules.ScheduleError."""
        super().__init__(spec)
        settings = self.settings
        self._mapped = {p.parameter: p for p in mapped}
        self._muon = Muon(settings, MegatronMatrices(mapped, model, layout)) if settings.name == "muon" else None
        config = chunks[0].config
        self._separate_main_weights = config.bf16 or config.fp16
        self._optimizer = get_megatron_optimizer(
            OptimizerConfig(
                optimizer="adam",
                lr=settings.learning_rate,
                min_lr=0.0,
                weight_decay=settings.weight_decay,
                adam_beta1=settings.beta1,
                adam_beta2=settings.beta2,
                adam_eps=settings.epsilon,
                clip_grad=settings.clip_gradient,
                use_distributed_optimizer=spec.cuts_optimizer,
                bf16=config.bf16,
                fp16=config.fp16,
                loss_scale=self.scale if config.fp16 else None,
                params_dtype=config.params_dtype,
            ),
            chunks,
            use_gloo_process_groups=False,
            pg_collection=layout.groups,
        )
        self._hosted = [self._offload(part) for part in self._parts()] if spec.hosts_optimizer else []

    def zero_grad(self) -> None:
        self._optimizer.zero_grad()

    @torch.no_grad()
    def step(self) -> tuple[bool, float]:
        """(taken, global gradient norm before clipping). The norm is equal on all ranks, so all take or skip.

        Raises NonFiniteGradients on every rank when `max_skipped` steps in a row are skipped.
        """
        rate = self.learning_rate
        self.steps += 1
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["lr_mult"]
            group["weight_decay"] = self.settings.weight_decay * group["wd_mult"]  # nobody else applies wd_mult
        if self.loss_scale is not None:
            for part in self._optimizer.chained_optimizers:
                part.grad_scaler = ConstantGradScaler(self.scale)  # this one divides, the guard decides
        overflow = self._optimizer.prepare_grads()
        norm = float(self._optimizer.get_grad_norm())
        if overflow or not math.isfinite(norm):
            own = (piece for _, piece in self._pieces() if not _is_finite(piece.main.grad))
            self.skip(norm, ["+".join(self._mapped[piece.parameter].hf_names) for piece in own])
            return False, norm
        self.taken()
        if self.settings.clip_gradient > 0:
            for part in self._optimizer.chained_optimizers:
                parameters = part.get_parameters()
                if parameters:
                    clip_grad_by_total_norm_fp32(parameters, self.settings.clip_gradient, norm)
        if self._muon is not None:
            for _, piece in self._pieces():
                if self._is_muons(piece):
                    assert piece.main.grad is not None
                    self._muon.step(self._name(piece), piece.main, piece.main.grad, rate)
                    piece.main.grad = None  # so that AdamW leaves it alone
        self._optimizer.step_with_ready_grads()
        return True, norm

    def state(self) -> dict[str, Any]:
        """This rank's shard by parameter name, referring to live memory.

        {counters of the guard, "pieces": {name: {"start", "end", and flat tensors "exp_avg", "exp_avg_sq", "main"}}}:
        "main" where weights are short (an fp32 weight is its own main weight), the moments after the first step taken.
        What Muon steps has "momentum" in their place.
        """
        found: dict[str, Any] = {}
        for optimizer, piece in self._pieces():
            name, moments, main = self._name(piece), optimizer.state.get(piece.main, {}), self._values(piece.main)
            if self._muon is not None and self._is_muons(piece):
                moments = self._muon.state(name)
            found[name] = {
                "start": piece.start,
                "end": piece.end,
                **{key: moments[key].detach().view(-1) for key in (*MOMENTS, MOMENTUM) if key in moments},
                **({"main": main.view(-1)} if self._separate_main_weights else {}),
            }
        return {**self.counters(), "pieces": found}

    @torch.no_grad()
    def load_state(
        self, counters: Mapping[str, Any], get: Callable[[torch.nn.Parameter, int, int, str], Tensor]
    ) -> None:
        """Takes a state under this layout: `get(parameter, start, end, key)` gives what `state` calls `key` as a flat
        fp32 tensor. fp32 main weights are the model's own memory, so load the model too."""
        taken = self.restore(counters)
        for optimizer, piece in self._pieces():
            where = piece.parameter, piece.start, piece.end
            main = self._values(piece.main)
            if self._separate_main_weights:
                main.copy_(get(*where, "main").view_as(main))
            is_muons = self._is_muons(piece)
            keys = (MOMENTUM,) if is_muons else MOMENTS
            moments = {key: get(*where, key).view_as(main) for key in keys if taken}
            moments = {key: at_home(m) if self._hosted else m.to(main, copy=True) for key, m in moments.items()}
            optimizer.state.pop(piece.main, None)
            if self._muon is not None and is_muons:
                self._muon.load(self._name(piece), moments.get(MOMENTUM))
            elif taken:
                optimizer.state[piece.main] = {"step": torch.tensor(float(taken)), **moments}

    def _values(self, main: Tensor) -> Tensor:
        """Of a main weight, wherever they are."""
        homes = [home for hosted in self._hosted if (home := hosted.home(main)) is not None]
        return homes[0] if homes else main.detach()

    def _offload(self, part: Any) -> HostedState:
        """Of one of Megatron's optimizers; the step then writes main weights into the model by itself."""
        if not self._separate_main_weights:
            return HostedState(part.optimizer)
        targets = {p.main: p.parameter.detach().view(-1)[p.start : p.end] for p in pieces(part)}
        part._copy_main_params_to_model_params = _nothing
        return HostedState(part.optimizer, targets)

    def _parts(self) -> list[Any]:
        """Megatron's optimizers that have something to step."""
        return [part for part in self._optimizer.chained_optimizers if part.optimizer is not None]

    def _name(self, piece: Piece) -> str:
        return self._mapped[piece.parameter].name

    def _is_muons(self, piece: Piece) -> bool:
        return self._muon is not None and MegatronMatrices.is_hidden(self._mapped[piece.parameter])

    def _pieces(self) -> Iterator[tuple[torch.optim.Optimizer, Piece]]:
        for part in self._optimizer.chained_optimizers:
            for piece in pieces(part):
                yield part.optimizer, piece


def _nothing() -> None:
    pass


def _is_finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(torch.isfinite(gradient).all())
