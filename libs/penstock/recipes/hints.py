"""Which key may have been meant by one that a recipe does not have: of its section, another one, or another system."""

import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence

import pydantic

from penstock.recipes.recipe import Recipe

ELSEWHERE: Mapping[str, str] = {
    "lr": "learner.optimizer.learning_rate",
    "learning_rate": "learner.optimizer.learning_rate",
    "lr_scheduler_type": "learner.optimizer.schedule",
    "max_grad_norm": "learner.optimizer.clip_gradient",
    "warmup": "learner.optimizer.warmup_steps",
    "num_generations": "algorithm.group_size",
    "num_generations_per_prompt": "algorithm.group_size",
    "num_prompts_per_step": "algorithm.groups_per_step",
    "batch_size": "algorithm.groups_per_step",
    "per_device_train_batch_size": "algorithm.groups_per_step",
    "train_global_batch_size": "algorithm.groups_per_step",
    "max_steps": "algorithm.steps",
    "max_num_steps": "algorithm.steps",
    "num_iterations": "algorithm.loss.mini_batches",
    "epsilon": "algorithm.loss.clip_low",
    "epsilon_high": "algorithm.loss.clip_high",
    "ratio_clip_min": "algorithm.loss.clip_low",
    "ratio_clip_max": "algorithm.loss.clip_high",
    "kl_coef": "algorithm.loss.kl.coefficient",
    "reference_policy_kl_penalty": "algorithm.loss.kl.coefficient",
    "loss_type": "algorithm.loss.name",
    "max_completion_length": "sampling.max_tokens",
    "max_new_tokens": "sampling.max_tokens",
    "max_model_len": "generation.max_context",
    "max_seq_length": "generation.max_context",
    "max_total_sequence_length": "generation.max_context",
    "tensor_parallel_size": "learner.parallel.tensor",
    "tensor_model_parallel_size": "learner.parallel.tensor",
    "pipeline_model_parallel_size": "learner.parallel.pipeline",
    "context_parallel_size": "learner.parallel.context",
    "gpu_memory_utilization": "generation.gpu_memory_fraction",
    "model_name": "model.path",
    "model_name_or_path": "model.path",
    "precision": "model.dtype",
    "train_dataset": "data.train",
    "dataset_name": "data.train",
    "eval_dataset": "data.eval",
    "eval_steps": "evaluation.every",
    "val_period": "evaluation.every",
    "save_steps": "learner.checkpoints.every",
    "save_period": "learner.checkpoints.every",
    "gradient_checkpointing": "learner.recompute",
    "report_to": "telemetry.wandb_project",
}
"""Names that TRL, NeMo RL and people use, and where that is said here."""
NEAR = 0.75


def meant(path: Sequence[str], section: type[pydantic.BaseModel] | None) -> str | None:
    """The path of the key that was most likely meant by an unknown one; None if there is nothing like it.

    A near name of the same section comes first, then what another system's name is called here, then the same or a near
    name elsewhere, then whatever of the section is nearest.
    """
    *parents, name = path
    own = list(section.model_fields) if section is not None else []
    near = difflib.get_close_matches(name, own, n=1, cutoff=NEAR)
    if near:
        return ".".join([*parents, near[0]])
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    leaves = {key.rpartition(".")[2] for key in keys()}
    far = difflib.get_close_matches(name, sorted(leaves), n=1, cutoff=NEAR)
    if far:
        return min((k for k in keys() if k.rpartition(".")[2] == far[0]), key=lambda k: _distance(k, parents))
    rest = difflib.get_close_matches(name, own, n=1, cutoff=0.0)
    return ".".join([*parents, rest[0]]) if rest else None


def _distance(key: str, parents: Sequence[str]) -> tuple[bool, bool, int]:
    """How far a key is from a section: in the same part of the recipe first, those of a mixture last."""
    parts = key.split(".")
    return parts[0] != (parents[0] if parents else parts[0]), parts[0] == "mixture", len(parts)


def keys(model: type[pydantic.BaseModel] = Recipe, above: str = "") -> Iterator[str]:
    """All keys of a recipe that stand in a section, sections before what is in them. Items of lists are left out."""
    for name, field in model.model_fields.items():
        yield above + name
        options = [field.annotation, *typing.get_args(field.annotation)]
        for option in options:
            if isinstance(option, type) and issubclass(option, pydantic.BaseModel):
                yield from keys(option, f"{above}{name}.")
