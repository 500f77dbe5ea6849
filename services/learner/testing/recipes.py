"""Recipes and specs of tests: the sections that a test names, and the recipe's own defaults for everything else."""

from pathlib import Path
from typing import Any, Literal

from penstock.recipes import Recipe
from penstock.recipes.sections import (
    Algorithm,
    Data,
    Environment,
    Kl,
    Learner,
    Lora,
    Loss,
    Model,
    Optimizer,
    Parallel,
    Sampling,
    Teacher,
)
from services.learner.interface.policy_spec import PolicySpec


def recipe_of(
    name: Literal["grpo", "dpo", "sft", "reward_model"] = "grpo",
    *,
    environment: Environment | None = None,
    teacher: Teacher | None = None,
    temperature: float = 1.0,
    max_tokens: int = 100,
    loss: str = "ppo_clip",
    kl: float | Kl = 0.0,
    algorithm: dict[str, Any] | None = None,
    **of_loss: Any,
) -> Recipe:
    """A recipe of six steps that reads and writes nothing. loss: its name; kl: of which the coefficient is often all;
    of_loss: further keys of `algorithm.loss`; algorithm: further keys of `algorithm`."""
    pull = kl if isinstance(kl, Kl) else Kl(coefficient=kl)
    return Recipe(
        run="r",
        model=Model(path="-"),
        data=Data(train="-"),
        environment=environment or Environment(name="e"),
        teacher=teacher,
        algorithm=Algorithm(name=name, steps=6, loss=Loss(name=loss, kl=pull, **of_loss), **(algorithm or {})),
        sampling=Sampling(temperature=temperature, max_tokens=max_tokens),
    )


def spec_of(
    path: str | Path,
    parallel: Parallel | None = None,
    optimizer: Optimizer | None = None,
    dtype: Any = "float32",
    *,
    micro_batch_tokens: int = 4096,
    recompute: Any = "none",
    seed: int = 0,
    lora: Lora | None = None,
    offload: tuple[Literal["optimizer", "reference"], ...] = (),
    steps: int = 6,
    share_prefixes: bool = True,
    **of_spec: Any,
) -> PolicySpec:
    """A policy of a run of `steps` steps. of_spec: further fields of PolicySpec."""
    learner = Learner(
        parallel=parallel or Parallel(),
        optimizer=optimizer or Optimizer(),
        micro_batch_tokens=micro_batch_tokens,
        recompute=recompute,
        seed=seed,
        lora=lora,
        offload=offload,
        share_prefixes=share_prefixes,
    )
    return PolicySpec(path, dtype, learner, steps, **of_spec)
