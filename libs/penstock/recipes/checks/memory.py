"""A learner that its device cannot hold, and the least change that it can."""

from penstock.memory_plan import GIB
from penstock.recipes.needs import Needs
from penstock.recipes.recipe import Recipe

LEAST_TOKENS = 1024
"""A micro-batch is not advised to be smaller."""


def check_memory(recipe: Recipe) -> list[str]:
    """One sentence if the recipe names a device's memory and needs more; empty otherwise."""
    device, needs = recipe.learner.device_gib, Needs.of(recipe)
    if device is None or needs is None:
        return []
    stage = needs.stages[needs.worst]
    if stage.total <= device * GIB:
        return []
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in stage.parts.items())
    return [
        f"learner.device_gib: a rank of pipeline stage {needs.worst} needs {stage.total / GIB:.1f} GiB ({parts}) of "
        f"{device:g}; {_way_out(recipe, device)}"
    ]


def _way_out(recipe: Recipe, device: float) -> str:
    """The least change that fits, of those that cost least first."""
    learner = recipe.learner
    p = learner.parallel
    changes: list[tuple[str, dict[str, object]]] = [
        (f"set learner.recompute={much}", {"recompute": much}) for much in ("selective", "full")
    ]
    tokens = learner.micro_batch_tokens // 2
    floor = recipe.generation.max_context if recipe.rolls_out else 1
    while tokens >= max(floor, LEAST_TOKENS):
        words = f"set learner.recompute=full and learner.micro_batch_tokens={tokens}"
        changes.append((words, {"recompute": "full", "micro_batch_tokens": tokens}))
        tokens //= 2
    offload = tuple(dict.fromkeys((*learner.offload, "optimizer")))
    words = f"set learner.recompute=full and learner.offload=[{','.join(offload)}]"
    changes.append((words, {"recompute": "full", "offload": offload}))
    ranks = learner.ranks * 2
    while learner.backend == "transformers" and ranks <= 64:
        words = f"set learner.recompute=full and learner.ranks={ranks}"
        changes.append((words, {"recompute": "full", "ranks": ranks}))
        ranks *= 2
    tensor = p.tensor * 2
    while learner.backend == "megatron" and tensor <= 8:
        ranks = max(learner.ranks, tensor * p.pipeline * p.context)
        parallel = p.model_copy(update={"tensor": tensor, "sequence_parallel": True})
        words = f"set learner.parallel.tensor={tensor}, learner.parallel.sequence_parallel=true, learner.recompute=full"
        words += f" and learner.ranks={ranks}" if ranks != learner.ranks else ""
        changes.append((words, {"recompute": "full", "parallel": parallel, "ranks": ranks}))
        tensor *= 2
    for words, update in changes:
        changed = recipe.model_copy(update={"learner": learner.model_copy(update=update)})
        needs = Needs.of(changed)
        if needs is None or needs.shapes.indivisible(needs.layout.tensor, needs.layout.pipeline):
            continue
        if needs.layout.ulysses and not needs.shapes.shares_heads(needs.layout.tensor, needs.layout.context):
            continue
        if needs.stages[needs.worst].total <= device * GIB:
            return words
    if learner.backend == "transformers":
        return "spread the model over more ranks with learner.backend=megatron (learner.parallel.tensor, pipeline)"
    return "spread the model over more ranks (learner.parallel.pipeline, learner.parallel.tensor)"
