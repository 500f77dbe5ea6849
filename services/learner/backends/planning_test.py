"""The planner of recipes counts what this learner really allocates."""

import dataclasses
from pathlib import Path

import pytest
import torch
from megatron.core import parallel_state

from penstock import memory_plan
from penstock.memory_plan import read_shapes
from penstock.recipes.sections import Lora, Optimizer, Parallel
from services.learner.algorithms.supervised import SupervisedLoss
from services.learner.backends.common import host_memory as host
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.testing import transformers_activations as transformers_activations_testing
from services.learner.backends.testing.megatron_activations import kept_bytes
from services.learner.backends.transformers_fsdp.fully_sharded import slice_of
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

LENGTHS = {"one sequence": [240], "a pack": [100, 80, 60]}
LAYOUTS = {
    "one": (1, Parallel()),
    "tp2": (2, Parallel(tensor=2)),
    "tp2-sp": (2, Parallel(tensor=2, sequence_parallel=True)),
    "cp2": (2, Parallel(context=2)),
    "cp2-ulysses": (2, Parallel(context=2, context_attention="ulysses")),
    "cp4-ulysses": (4, Parallel(context=4, context_attention="ulysses")),
    "tp2-cp2-ulysses": (4, Parallel(tensor=2, context=2, context_attention="ulysses")),
}


@pytest.fixture(scope="module", params=["qwen3", "llama", "qwen2"])
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), request.param)


def _shapes(model_dir: Path) -> memory_plan.Shapes:
    shapes = read_shapes(model_dir)
    assert shapes is not None
    return shapes


def planned(
    parallel: Parallel, lora: Lora | None = None, scores: bool = False, muon: bool = False
) -> memory_plan.PlannedLayout:
    return memory_plan.PlannedLayout(
        tensor=parallel.tensor,
        pipeline=parallel.pipeline,
        context=parallel.context,
        data=1,
        sequence_parallel=parallel.sequence_parallel,
        ulysses=parallel.context_attention == "ulysses",
        half=False,
        micro_batch_tokens=240,
        recompute=False,
        lora_rank=lora.rank if lora is not None else 0,
        lora_targets=lora.targets if lora is not None else (),
        scores=scores,
        muon=muon,
    )


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_activations_are_counted_within_a_quarter_and_rather_too_high(name: str, lengths: str, model_dir: Path) -> None:
    world, parallel = LAYOUTS[name]
    kept, tokens, _ = run_ranks(world, kept_bytes, model_dir, parallel, "none", LENGTHS[lengths])[0]
    shapes = _shapes(model_dir)
    per_layer = 4 * tokens * memory_plan.layer_activations(shapes, planned(parallel))
    ends = 4 * 3 * tokens * shapes.hidden  # the last norm's
    ratio = (shapes.layers * per_layer + ends) / kept
    assert 0.97 <= ratio <= 1.25, f"planned / kept = {ratio:.3f}"


@pytest.mark.parametrize("name", ["one", "tp2", "tp2-sp", "cp2"])
def test_what_selective_recomputation_keeps_is_counted(name: str, model_dir: Path) -> None:
    world, parallel = LAYOUTS[name]
    kept, tokens, _ = run_ranks(world, kept_bytes, model_dir, parallel, "selective", [240])[0]
    shapes = _shapes(model_dir)
    per_layer = 4 * tokens * memory_plan.selected_activations(shapes, planned(parallel))
    ends = 4 * 3 * tokens * shapes.hidden // (parallel.tensor if parallel.sequence_parallel else 1)
    ratio = (shapes.layers * per_layer + ends) / kept
    assert 0.97 <= ratio <= 1.25, f"planned / kept = {ratio:.3f}"


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("recompute", ["none", "selective"])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_activations_of_the_transformers_backend_too(
    lengths: str, recompute: str, tensor: int, model_dir: Path
) -> None:
    arguments = (model_dir, LENGTHS[lengths], recompute, tensor)
    kept = run_ranks(tensor, transformers_activations_testing.kept_bytes, *arguments)[0]
    shapes, tokens = _shapes(model_dir), sum(LENGTHS[lengths])
    layout = dataclasses.replace(planned(Parallel(tensor=tensor)), fully_sharded=True)
    count = {"none": memory_plan.layer_activations, "selective": memory_plan.selected_activations}[recompute]
    per_layer = 4 * tokens * count(shapes, layout)
    ratio = (shapes.layers * per_layer + 4 * tokens * (3 * shapes.hidden + 2 * shapes.head_dim)) / kept
    assert 0.97 <= ratio <= 1.25, f"planned / kept = {ratio:.3f}"


def _owned(model_dir: str, lora: Lora | None, optimizer: Optimizer, tensor: int = 1) -> tuple[int, int, int]:
    """(parameters, bytes of this rank's weights, bytes of its gradients and moments)."""
    policy = TransformersPolicy.create(spec_of(model_dir, Parallel(tensor=tensor), optimizer, seed=1, lora=lora))
    policy.train_step(random_batch(1), SupervisedLoss(torch.ones_like(random_batch(1).mask)))
    parameters = policy.state._parameters
    trained = [p for p in parameters.values() if p.requires_grad]
    weights = sum(4 * slice_of(p).numel() for p in parameters.values())
    gradients = sum(4 * slice_of(p.grad).numel() for p in trained)
    moments = sum(4 * m.numel() for piece in policy.optimizer.state()["pieces"].values() for m in piece.values())
    return sum(p.numel() for p in parameters.values()), weights, gradients + moments


@pytest.mark.parametrize(("lora", "muon"), [(None, False), (None, True), (Lora(rank=3), False)])
def test_slices_of_the_transformers_backend_are_exact(lora: Lora | None, muon: bool, model_dir: Path) -> None:
    layout = dataclasses.replace(planned(Parallel(), lora, muon=muon), fully_sharded=True, data=2)
    (stage,) = memory_plan.stages(_shapes(model_dir), layout)
    counted = run_ranks(2, _owned, model_dir, lora, Optimizer(name="muon" if muon else "adamw"))
    assert {numbers for numbers, _, _ in counted} == {stage.parameters}
    assert sum(weights for _, weights, _ in counted) == 2 * stage.weights
    assert sum(states for _, _, states in counted) == 2 * (stage.gradients + stage.optimizer)


@pytest.mark.parametrize("muon", [False, True])
def test_slices_of_cut_matrices_are_exact(muon: bool, model_dir: Path) -> None:
    layout = dataclasses.replace(planned(Parallel(tensor=2), muon=muon), fully_sharded=True, data=2)
    (stage,) = memory_plan.stages(_shapes(model_dir), layout)
    optimizer = Optimizer(name="muon" if muon else "adamw")
    counted = run_ranks(4, _owned, model_dir, None, optimizer, 2)
    assert sum(weights for _, weights, _ in counted) == 4 * stage.weights
    assert sum(states for _, _, states in counted) == 4 * (stage.gradients + stage.optimizer)


MIXTURES = {
    "ep2": (2, Parallel(expert=2)),
    "tp2-sp-ep2": (2, Parallel(tensor=2, sequence_parallel=True, expert=2)),
    "ep2-dp4": (4, Parallel(expert=2)),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_of_experts_is_counted_too(name: str, tmp_path: Path) -> None:
    world, parallel = MIXTURES[name]
    model_dir = save_tiny_model(tmp_path, "qwen3_moe")
    layout = dataclasses.replace(planned(parallel), data=world // parallel.tensor, expert=parallel.expert)
    shapes = _shapes(model_dir)
    (stage,) = memory_plan.stages(shapes, layout)
    counted = run_ranks(world, _counted, model_dir, parallel, None)
    assert {numbers for _, numbers, _ in counted} == {stage.parameters}
    assert sum(states for _, _, states in counted) == world * (stage.gradients + stage.optimizer)
    for recompute, counted_of in (
        ("none", memory_plan.layer_activations),
        ("selective", memory_plan.selected_activations),
    ):
        kept, tokens, _ = run_ranks(world, kept_bytes, model_dir, parallel, recompute, [240] * layout.data)[0]
        per_layer = 4 * tokens * counted_of(shapes, layout)
        ratio = (shapes.layers * per_layer + 4 * 3 * tokens * shapes.hidden // parallel.tensor) / kept
        assert 0.97 <= ratio <= 1.25, f"{recompute}: planned / kept = {ratio:.3f}"


def _counted(
    model_dir: str,
    parallel: Parallel,
    lora: Lora | None,
    scores: bool = False,
    optimizer: Optimizer | None = None,
) -> tuple[int, int, int]:
    """(pipeline stage, parameters, bytes of gradients and moments) of this rank."""
    policy = MegatronPolicy.create(
        spec_of(model_dir, parallel, optimizer or Optimizer(), seed=1, lora=lora, scores=scores)
    )
    parameters = list(policy._models[0].parameters())
    sizes = ((4 if policy.optimizer._is_muons(piece) else 8, piece) for _, piece in policy.optimizer._pieces())
    moments = sum(size * piece.main.numel() for size, piece in sizes)
    gradients = sum(4 * p.main_grad.numel() for p in parameters if p.requires_grad)
    rank = parallel_state.get_pipeline_model_parallel_rank()
    return rank, sum(p.numel() for p in parameters), gradients + moments


@pytest.mark.parametrize(
    ("world", "parallel"),
    [
        (1, Parallel()),
        (2, Parallel(tensor=2)),
        (2, Parallel(pipeline=2)),
        (4, Parallel(tensor=2, pipeline=2)),
    ],
    ids=["one", "tp2", "pp2", "tp2-pp2"],
)
@pytest.mark.parametrize("lora", [None, Lora(rank=3), Lora(rank=2, targets=("output", "gate_up"))])
def test_parameters_gradients_and_moments_are_exact(
    world: int, parallel: Parallel, lora: Lora | None, model_dir: Path
) -> None:
    stages = memory_plan.stages(_shapes(model_dir), planned(parallel, lora))
    for stage, numbers, state in run_ranks(world, _counted, model_dir, parallel, lora):
        assert numbers == stages[stage].parameters
        assert state == stages[stage].gradients + stages[stage].optimizer


@pytest.mark.parametrize("lora", [None, Lora(rank=3)])
def test_a_reward_model_has_a_score_in_place_of_the_vocabulary(lora: Lora | None, model_dir: Path) -> None:
    parallel = Parallel(tensor=2, pipeline=2)
    stages = memory_plan.stages(_shapes(model_dir), planned(parallel, lora, scores=True))
    for stage, numbers, state in run_ranks(4, _counted, model_dir, parallel, lora, True):
        assert numbers == stages[stage].parameters
        assert state == stages[stage].gradients + stages[stage].optimizer


MUON = {
    "tp2-dp2": ("qwen2", 4, Parallel(tensor=2)),
    "pp2": ("qwen3", 2, Parallel(pipeline=2)),
    "ep2": ("qwen3_moe", 2, Parallel(expert=2)),
}


@pytest.mark.parametrize("name", MUON)
def test_muon_has_one_number_where_adamw_has_two_and_shares_nothing_out(name: str, tmp_path: Path) -> None:
    family, world, parallel = MUON[name]
    model_dir = save_tiny_model(tmp_path, family)
    data = world // (parallel.tensor * parallel.pipeline)
    layout = dataclasses.replace(planned(parallel, muon=True), data=data, expert=parallel.expert)
    stages = memory_plan.stages(_shapes(model_dir), layout)
    settings = Optimizer(name="muon")
    for stage, numbers, state in run_ranks(world, _counted, model_dir, parallel, None, False, settings):
        assert numbers == stages[stage].parameters
        assert state == stages[stage].gradients + stages[stage].optimizer


def _hosted(model_dir: str, transformers: bool, precision: str) -> tuple[int, int]:
    """Bytes of the optimizer's state and of the reference on the host of a rank."""
    policy = (TransformersPolicy if transformers else MegatronPolicy).create(
        spec_of(
            model_dir,
            Parallel(),
            Optimizer(),
            precision,
            offload=("optimizer", "reference"),
            seed=1,
            keep_reference=True,
        )
    )
    policy.train_step(random_batch(1), SupervisedLoss(torch.ones_like(random_batch(1).mask)))
    policy.reference_logprobs(random_batch(1))
    pieces = policy.optimizer.state()["pieces"].values()
    reference = policy._reference
    assert reference is not None
    kept = [t for piece in pieces for t in piece.values() if isinstance(t, torch.Tensor)]
    return sum(t.nbytes for t in kept), sum(t.nbytes for t in (*reference.values.values(), *reference._aside.values()))


@pytest.mark.parametrize(("transformers", "precision"), [(False, "float32"), (False, "bfloat16"), (True, "bfloat16")])
def test_what_is_offloaded_is_counted_on_the_host(transformers: bool, precision: str, model_dir: Path) -> None:
    layout = dataclasses.replace(
        planned(Parallel()),
        data=2,
        fully_sharded=transformers,
        half=precision == "bfloat16",
        keeps_reference=True,
        offload=("optimizer", "reference"),
    )
    (stage,) = memory_plan.stages(_shapes(model_dir), layout)
    counted = run_ranks(2, _hosted, model_dir, transformers, precision)
    assert abs(sum(state for state, _ in counted) - 2 * stage.host_optimizer) <= 2 * 12
    assert sum(reference for _, reference in counted) == 2 * stage.host_reference
    assert host.SLICE == memory_plan.SLICE
