"""What a policy is made of: a model's directory and the recipe's section `learner`, whatever the backend."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from penstock.recipes import Recipe
from penstock.recipes.sections import Learner

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class PolicySpec:
    """Attributes:
    path: Hugging Face directory of the initial weights.
    dtype: what the model computes in, and is exported in. Short types have fp32 main weights and fp32 gradient
      reduction beside them, and float16 a loss scale; log-probabilities are fp32 in any case.
    learner: the recipe's section.
    steps: steps of the run, where a rate that falls has fallen; everything that a schedule names is in these.
    updates: optimizer steps that one of them is cut into.
    scores: a model that scores (see Policy); the score of a directory without one starts at zero.
    keep_reference: keep the initial weights for `reference_logprobs`: once more the model's memory, but with adapters,
      whose base they are.
    follows: the reference follows the policy, so it is saved and restored with it.
    router_coefficient: weight of a mixture's balance loss.
    replays_routes: whether tokens go to the experts that the engine sent them to.
    head_chunk: tokens whose logits exist at once; None: as many as have HEAD_BYTES of fp32 logits on one rank.
    shard_optimizer: share Megatron's AdamW out over data × context ranks (ZeRO-1). Without it every rank has whole
      gradients, which tests compare.
    """

    path: str | Path
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    learner: Learner = field(default_factory=Learner)
    steps: int = 1
    updates: int = 1
    scores: bool = False
    keep_reference: bool = False
    follows: bool = False
    router_coefficient: float = 0.0
    replays_routes: bool = False
    head_chunk: int | None = None
    shard_optimizer: bool = True

    @staticmethod
    def of(recipe: Recipe) -> "PolicySpec":
        """The recipe's policy."""
        return PolicySpec(
            recipe.model.path,
            recipe.model.dtype,
            recipe.learner,
            recipe.algorithm.steps,
            min(recipe.algorithm.loss.mini_batches, recipe.algorithm.groups_per_step),
            scores=recipe.trains_reward_model,
            keep_reference=recipe.compares_with_reference,
            router_coefficient=recipe.algorithm.router_coefficient,
            replays_routes=bool(recipe.learner.routing_replay),
            follows=recipe.algorithm.reference.sync_every is not None,
        )

    @staticmethod
    def of_critic(recipe: Recipe) -> "PolicySpec":
        """The recipe's critic: the policy's settings with a rate of its own, from the first step on."""
        critic, learner = recipe.algorithm.critic, recipe.learner
        own = {"learning_rate": critic.learning_rate, "warmup_steps": 0}
        learner = learner.model_copy(update={"optimizer": learner.optimizer.model_copy(update=own), "lora": None})
        path = critic.path or recipe.model.path
        return PolicySpec(path, recipe.model.dtype, learner, recipe.algorithm.steps, scores=True)

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype`, as torch has it."""
        return _TYPES[self.dtype]

    @property
    def hosts_optimizer(self) -> bool:
        """Whether moments and fp32 main weights stay on the host between steps."""
        return "optimizer" in self.learner.offload

    @property
    def hosts_reference(self) -> bool:
        """Whether the initial weights are kept on the host."""
        return "reference" in self.learner.offload

    @property
    def cuts_optimizer(self) -> bool:
        """Whether Megatron cuts the state over data ranks. It does so without regard for matrices, of which Muon needs
        whole ones."""
        return self.shard_optimizer and self.learner.optimizer.name == "adamw"
