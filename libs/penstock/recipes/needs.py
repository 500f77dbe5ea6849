"""What a recipe's learner needs in memory: penstock.memory_plan's counts, for the layout that it asks for."""

import dataclasses
from dataclasses import dataclass

from penstock.memory_plan import GIB, PlannedLayout, Shapes, Stage, read_shapes, stages
from penstock.recipes.recipe import Recipe
from penstock.recipes.sections import Judge, Teacher

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def planned_layout(recipe: Recipe) -> PlannedLayout:
    """How the recipe's learner is spread, and what one forward pass of it holds."""
    learner = recipe.learner
    p = learner.parallel
    return PlannedLayout(
        tensor=p.tensor,
        pipeline=p.pipeline,
        context=p.context,
        data=max(1, learner.ranks // (p.tensor * p.pipeline * p.context)),
        sequence_parallel=p.sequence_parallel,
        half=recipe.model.dtype != "float32",
        micro_batch_tokens=learner.micro_batch_tokens,
        recompute=learner.recompute == "full",
        virtual=p.virtual_stages,
        lora_rank=learner.lora.rank if learner.lora is not None else 0,
        lora_targets=learner.lora.targets if learner.lora is not None else (),
        keeps_reference=recipe.compares_with_reference and learner.lora is None,
        scores=recipe.trains_reward_model,
        fully_sharded=learner.backend == "transformers",
        expert=p.expert,
        ulysses=p.context_attention == "ulysses",
        selective=learner.recompute == "selective",
        offload=learner.offload,
        muon=learner.optimizer.name == "muon",
    )


@dataclass(frozen=True)
class Needs:
    """Of a recipe: its stages, and what the hosts hold beside the devices.

    published: bytes that the ranks together hold of versions while one is published, about equally many each: the whole
    model, and where what changed is published the one before. stored: most bytes of versions on weight_sync's disk:
    those that are kept, one that is served beyond them, one that is pushed, each with its difference. routes: bytes of
    one token's row of routes, where they are replayed.
    """

    shapes: Shapes
    layout: PlannedLayout
    stages: list[Stage]
    published: int
    stored: int
    routes: int = 0

    @staticmethod
    def of(recipe: Recipe) -> "Needs | None":
        """None where the model's shapes cannot be read."""
        shapes = read_shapes(recipe.model.path)
        if shapes is None:
            return None
        layout = planned_layout(recipe)
        needed = stages(shapes, layout)
        if recipe.has_critic:
            other = read_shapes(recipe.algorithm.critic.path or recipe.model.path) or shapes
            critic = dataclasses.replace(layout, scores=True, lora_rank=0, lora_targets=(), keeps_reference=False)
            needed = [a.beside(b) for a, b in zip(needed, stages(other, critic), strict=True)]
        travels = recipe.weight_sync
        size, differ = shapes.parameters * BYTES[travels.dtype or recipe.model.dtype], travels.full_every > 1
        stored = (travels.keep_versions + 2) * size
        published, routes = size * (2 if differ else 1), shapes.route_bytes if recipe.learner.routing_replay else 0
        return Needs(shapes, layout, needed, published, stored * 14 // 10 if differ else stored, routes)

    @staticmethod
    def of_host(recipe: Recipe) -> dict[str, int]:
        """Bytes by kind of process, where all of a run computes on the CPUs of one host (no learner.device_gib): those
        of models, what trains them, and caches, without the programs themselves. Empty where it is not known."""
        needs = Needs.of(recipe)
        if needs is None or recipe.learner.device_gib is not None:
            return {}
        learner, g = recipe.learner, recipe.generation
        ranks = learner.ranks // len(needs.stages)
        held = {}
        if recipe.mode != "evaluate":
            held["learner"] = ranks * sum(stage.total for stage in needs.stages) + needs.published
        if recipe.generates:
            held["generation"] = g.replicas * int(needs.version + Needs.of_drafts(recipe) + g.memory_gib * GIB)
        others: list[tuple[str, Teacher | Judge]] = [("judge", judge) for judge in recipe.judges.values()]
        if recipe.teacher is not None and recipe.mode == "train":
            others.append(("teacher", recipe.teacher))
        for kind, served in others:
            shapes = read_shapes(served.path)
            size = 0 if shapes is None else shapes.parameters * (4 if served.dtype == "float32" else 2)
            held[kind] = held.get(kind, 0) + served.replicas * int(size + served.memory_gib * GIB)
        return held

    @staticmethod
    def of_drafts(recipe: Recipe) -> int:
        """Bytes of the model that drafts tokens in each engine, beside the policy; 0 where there is none, or its shapes
        cannot be read."""
        asked = recipe.generation.speculative
        shapes = None if asked is None or asked.model is None else read_shapes(asked.model)
        return 0 if shapes is None else shapes.parameters * (4 if recipe.model.dtype == "float32" else 2)

    @property
    def worst(self) -> int:
        """The stage that needs most."""
        return max(range(len(self.stages)), key=lambda i: self.stages[i].total)

    @property
    def version(self) -> int:
        """Bytes of the whole model."""
        return self.shapes.parameters * (2 if self.layout.half else 4)
