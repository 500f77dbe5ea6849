"""What a learner can be told, as plain frozen dataclasses; the recipe's models are mapped onto these.

No field is read from the environment and none has a hidden second meaning. Checks that need the model or the number of
ranks are in `layout`; names of losses are checked by `penstock.objectives` when the trainer is built.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from penstock.objectives import preferences


class LayoutError(ValueError):
    """The parallel sizes do not fit the model, the backend or the number of ranks."""


@dataclass(frozen=True)
class ParallelSettings:
    """How one model is spread over ranks; data parallelism is what remains of the world size.

    Attributes:
      tensor: ranks that share each weight matrix.
      pipeline: stages the layers are cut into.
      context: ranks that share each sequence.
      sequence: shard activations between tensor-parallel blocks along the sequence (needs tensor > 1).
      virtual: chunks of layers per pipeline stage; more than 1 is the interleaved schedule, with less idle time.
      expert: ranks that share out the experts of each layer; they are at the same time tensor, context and data ranks.
      collective_minutes: longest wait of a rank for the others; a longer one has lost a rank, and raises.
      context_attention: what context ranks exchange for attention (see `context_attention`): keys and values, or heads.
      overlap: gradients in a message that data ranks exchange while the backward pass goes on (and weights, while the
        next forward pass does; see `overlap`); 0 exchanges everything at once.
    """

    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    sequence: bool = False
    collective_minutes: int = 5
    virtual: int = 1
    expert: int = 1
    overlap: int = 0
    context_attention: Literal["gather", "ulysses"] = "gather"


@dataclass(frozen=True)
class ScheduleSettings:
    """Learning rate over optimizer steps, as a factor of the peak (see `schedules`).

    Attributes:
      kind: constant, linear, cosine or wsd (warm-up, stable, decay).
      warmup_steps: steps of linear warm-up; the first step already moves.
      total_steps: step at which the decay ends; needed by every kind but constant.
      decay_steps: length of wsd's final decay.
      final_ratio: factor at and after total_steps.
    """

    kind: Literal["constant", "linear", "cosine", "wsd"] = "constant"
    warmup_steps: int = 0
    total_steps: int | None = None
    decay_steps: int = 0
    final_ratio: float = 0.0


@dataclass(frozen=True)
class OptimizerSettings:
    """With decoupled weight decay on matrices only (norms and biases are not decayed).

    Attributes:
      name: adamw, or muon for hidden matrices and AdamW for the rest (see `muon`).
      learning_rate: the peak.
      momentum, rate_adjustment: Muon's; match_rms_adamw makes its steps as large as AdamW's, original is Jordan's.
      clip_norm: largest global gradient norm; 0 turns clipping off (the norm is still reported).
      distributed: shard optimizer state over data × context ranks (ZeRO-1); Megatron's AdamW alone does (`cut`).
      max_skipped: steps in a row that are skipped for a gradient that is not finite, before NonFiniteGradients.
      on_host: keep moments and fp32 main weights on the host between steps (see `host`).
    """

    name: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-6
    weight_decay: float = 0.0
    momentum: float = 0.95
    rate_adjustment: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    distributed: bool = True
    max_skipped: int = 10
    on_host: bool = False
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)

    @property
    def cut(self) -> bool:
        """Whether Megatron cuts the state over data ranks. It does so without regard for matrices, of which Muon needs
        whole ones."""
        return self.distributed and self.name == "adamw"


@dataclass(frozen=True)
class PrecisionSettings:
    """Attributes:
    weights: fp32, or bf16 or fp16 with fp32 main weights and fp32 gradient reduction; fp16 with a loss scale.
    fp32_logits: compute the head in fp32 whatever the weights; log-probabilities are fp32 in any case.
    """

    weights: Literal["fp32", "bf16", "fp16"] = "fp32"
    fp32_logits: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in, and is exported in."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.weights]


HEAD_BYTES = 128 * 2**20
"""Logits that exist at once: some 220 tokens of a vocabulary of 152 k, all tokens of a small one."""


@dataclass(frozen=True)
class BatchSettings:
    """Attributes:
    tokens_per_micro_batch: token budget of one forward pass on one data-parallel rank (all its context ranks together).
    head_chunk: tokens whose logits exist at once; None: as many as have HEAD_BYTES of fp32 logits on one rank.
    recompute: keep every activation; or let norms and activation functions be computed again in the backward pass; or
      keep each layer's input alone, and run the whole layer again.
    """

    tokens_per_micro_batch: int = 4096
    head_chunk: int | None = None
    recompute: Literal["none", "selective", "full"] = "none"


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters on a frozen base (see `lora`).

    Attributes:
      rank, alpha: the change is (alpha / rank) · B A.
      targets: of qkv, output (attention), gate_up, down (MLP).
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("qkv", "output", "gate_up", "down")


@dataclass(frozen=True)
class AdvantageSettings:
    """From rewards to advantages, in this order: scales, overlong penalty, estimator, clip; and which groups to drop.

    Attributes:
      estimator, estimator_settings: of `penstock.objectives` (grpo, dr_grpo, rloo, reinforce_pp, batch_norm, maxrl).
      reward_scale: factor of every reward.
      truncated_scale: factor of a positive reward of an answer that was cut off.
      overlong_buffer, max_tokens: DAPO's soft punishment of answers that come within `overlong_buffer` tokens of
        `max_tokens`; buffer 0 turns it off.
      drop_zero_variance: filter groups whose valid rewards are all equal (dynamic sampling).
      pass_rate: (low, high); filter groups whose mean valid reward lies outside.
      clip: largest absolute advantage, or None.
      filters: names of further group filters of `penstock.objectives`.
      components: names of the reward's parts, for estimators that take them apart (gdpo); empty otherwise.
    """

    estimator: str = "batch_norm"
    estimator_settings: Mapping[str, Any] = field(default_factory=dict)
    reward_scale: float = 1.0
    truncated_scale: float = 1.0
    overlong_buffer: int = 0
    max_tokens: int = 0
    drop_zero_variance: bool = False
    pass_rate: tuple[float, float] | None = None
    clip: float | None = None
    filters: tuple[str, ...] = ()
    components: tuple[str, ...] = ()


@dataclass(frozen=True)
class PreferenceSettings:
    """How answers become pairs and what is minimised over them (see penstock.objectives.preferences).

    Attributes:
      loss, loss_settings: e.g. sigmoid, {"beta": 0.1}; kto takes single answers instead of pairs.
      nll_coefficient: weight of the chosen answers' negative log-likelihood per token.
      pairs_per_group, min_margin: best with worst, second best with …, where rewards differ by more than the margin.
      importance_cap: weigh a pair by how much likelier it is now than when it was drawn, at most this; None: do not.
    """

    loss: str = "sigmoid"
    loss_settings: Mapping[str, Any] = field(default_factory=dict)
    nll_coefficient: float = 0.0
    pairs_per_group: int = 1
    min_margin: float = 0.0
    importance_cap: float | None = None

    @property
    def paired(self) -> bool:
        return self.loss != "kto"


@dataclass(frozen=True)
class RewardModelSettings:
    """How a reward model learns from ranked answers (see penstock.objectives.preferences.ranking).

    Attributes:
      margin: by how much the better answer's score should be larger.
      centring: weight of the squared sum of a pair's scores, which pulls their mean to 0.
      min_margin: two answers are a pair if the data's scores differ by more.
    """

    margin: float = 0.0
    centring: float = 0.0
    min_margin: float = 0.0


@dataclass(frozen=True)
class CriticSettings:
    """PPO's critic (see penstock.objectives.critics).

    Attributes:
      discount, decay: γ and λ of GAE.
      clip: how far a value may move in a step; None turns it off.
      warmup_steps: steps at the start that train the critic alone.
    """

    discount: float = 1.0
    decay: float = 1.0
    clip: float | None = 0.2
    warmup_steps: int = 0


@dataclass(frozen=True)
class LossSettings:
    """What is minimised. Names and their parameters are those of `penstock.objectives`.

    Attributes:
      algorithm: grpo (policy gradient with the fields below; `critic` where advantages are a critic's), dpo
        (`preference`), reward_model (`reward_model`) or sft (negative log-likelihood; normalisation only).
      policy_loss, policy_loss_settings: e.g. ppo_clip, {"clip_low": 0.2}.
      correction, correction_settings: off-policy weight, e.g. tis, {"cap": 2.0}. Ignored with proximal = behaviour,
        where the ratio to the engine is already the trust region's.
      proximal: recompute (the learner's log-probs before the step), behaviour (the engine's) or interpolate (between
        the engine's and the current ones, by the token's age).
      normalisation, normalisation_settings: token, sequence, prompt or constant {"max_tokens": …}.
      kl_coefficient, kl_place, kl_estimator, kl_importance: KL to the model the run started from, in the loss or in
        the reward (where it needs no estimator and no importance); coefficient 0 keeps no reference.
      entropy_coefficient: weight of the entropy bonus.
      temperature: of sampling; the learner's logits are divided by it as the engine's were. Only used by grpo.
      divergence: grpo: the loss is this divergence from a teacher that named its likeliest tokens, and nothing of a
        policy gradient; None without one.
      mismatch_limit: grpo: a sample is not trained where the mean of exp(|p−g|) is larger; None: all are.
      optimizer_steps_per_batch: mini-batches of whole groups that a batch is cut into.
    """

    algorithm: Literal["grpo", "dpo", "sft", "reward_model"] = "grpo"
    policy_loss: str = "ppo_clip"
    policy_loss_settings: Mapping[str, Any] = field(default_factory=dict)
    correction: str = "tis"
    correction_settings: Mapping[str, Any] = field(default_factory=dict)
    proximal: Literal["recompute", "behaviour", "interpolate"] = "recompute"
    normalisation: str = "token"
    normalisation_settings: Mapping[str, Any] = field(default_factory=dict)
    kl_coefficient: float = 0.0
    kl_place: Literal["loss", "reward"] = "loss"
    kl_estimator: str = "k3"
    kl_importance: Literal["none", "differentiable", "detached"] = "differentiable"
    entropy_coefficient: float = 0.0
    temperature: float = 1.0
    divergence: Literal["reverse", "forward"] | None = None
    mismatch_limit: float | None = None
    optimizer_steps_per_batch: int = 1
    preference: PreferenceSettings = field(default_factory=PreferenceSettings)
    reward_model: RewardModelSettings = field(default_factory=RewardModelSettings)
    critic: CriticSettings | None = None

    @property
    def kl_in_loss(self) -> bool:
        """Whether the loss has a KL term."""
        return self.kl_coefficient > 0 and self.kl_place == "loss"

    @property
    def needs_reference(self) -> bool:
        """Whether the model the run started from must stay in memory."""
        if self.algorithm == "dpo":
            return self.preference.loss not in preferences.NEEDS_NO_REFERENCE
        return self.algorithm == "grpo" and self.kl_coefficient > 0


@dataclass(frozen=True)
class CheckpointSettings:
    """Attributes:
    keep: newest checkpoints that are kept; at least 2, so that a damaged newest one has a predecessor.
    keep_best: further ones that are kept, those with the best `metric`.
    metric: of the step reports, averaged over the steps since the checkpoint before.
    largest: whether a larger value is better.
    background: write beside the training; else the step loop waits for the disk.
    """

    keep: int = 2
    keep_best: int = 0
    metric: str = "rl.reward.mean"
    largest: bool = True
    background: bool = True
