"""Every parallel layout against Hugging Face transformers in one process, sequence by sequence.

Two optimizer steps of the whole policy-gradient objective (clipped ratio, truncated importance weights, KL to the
initial model, entropy bonus, temperature) over packed batches: loss, clipped gradients, gradient norm and weights must
agree.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.recipes.sections import Parallel
from services.learner.backends.testing.megatron_steps import Case, check_case
from services.learner.testing.tiny_models import save_tiny_model

LAYOUTS = {
    "one": Case(1),
    "tp2": Case(2, Parallel(tensor=2)),
    "tp2-sp": Case(2, Parallel(tensor=2, sequence_parallel=True)),
    "pp2": Case(2, Parallel(pipeline=2)),
    "pp2-interleaved": Case(2, Parallel(pipeline=2, virtual_stages=2)),
    "tp2-pp2-interleaved": Case(4, Parallel(tensor=2, pipeline=2, virtual_stages=2)),
    "cp2": Case(2, Parallel(context=2)),
    "cp2-ulysses": Case(2, Parallel(context=2, context_attention="ulysses"), distributed=False),
    "cp4": Case(4, Parallel(context=4), distributed=False),
    # fewer KV heads than context ranks
    "cp4-ulysses": Case(4, Parallel(context=4, context_attention="ulysses"), distributed=False),
    "tp2-sp-cp2-ulysses": Case(
        4, Parallel(tensor=2, context=2, sequence_parallel=True, context_attention="ulysses"), distributed=False
    ),
    "cp2-replicated-optimizer": Case(2, Parallel(context=2), distributed=False),
    "dp2": Case(2),
    "dp2-replicated-optimizer": Case(2, distributed=False),
    "tp2-pp2": Case(4, Parallel(tensor=2, pipeline=2)),
    "tp2-sp-cp2": Case(4, Parallel(tensor=2, context=2, sequence_parallel=True), distributed=False),
    "pp2-dp2": Case(4, Parallel(pipeline=2)),
    "dp2-overlap": Case(2, Parallel(overlap=True, overlap_bucket=20_000)),  # of 160 000 numbers
    "dp2-overlap-replicated-optimizer": Case(2, Parallel(overlap=True, overlap_bucket=20_000), distributed=False),
    "cp2-overlap": Case(2, Parallel(context=2, overlap=True, overlap_bucket=20_000)),
    "pp2-dp2-overlap": Case(4, Parallel(pipeline=2, overlap=True, overlap_bucket=20_000)),
    "pp2-interleaved-dp2-overlap": Case(4, Parallel(pipeline=2, virtual_stages=2, overlap=True, overlap_bucket=20_000)),
    "pp4": Case(4, Parallel(pipeline=4)),
    "tp2-dp2": Case(4, Parallel(tensor=2)),
    "pp2-cp2": Case(4, Parallel(pipeline=2, context=2), distributed=False),
    "cp2-dp2": Case(4, Parallel(context=2)),
    "tp4": Case(4, Parallel(tensor=4)),
    "tp4-sp": Case(4, Parallel(tensor=4, sequence_parallel=True)),  # fewer KV heads than tensor ranks
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    @functools.cache
    def make(family: str, tied: bool) -> Path:
        return save_tiny_model(tmp_path_factory.mktemp("model"), family, tied)

    return make


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_trains_as_transformers_does(name: str, model_dir: Callable[[str, bool], Path]) -> None:
    check_case(model_dir("qwen3", False), LAYOUTS[name], "qwen3", False, "grpo")


@pytest.mark.parametrize(
    ("family", "tied", "name"),
    [
        ("qwen2", True, "tp2-sp"),
        ("llama", False, "tp2"),
        ("qwen3", True, "pp2"),
        ("qwen3", True, "pp2-interleaved"),
        ("qwen3", True, "pp2-dp2-overlap"),
        ("qwen2", True, "dp2-overlap"),
        ("qwen2", False, "one"),
    ],
)
def test_every_architecture_trains_as_transformers_does(
    family: str, tied: bool, name: str, model_dir: Callable[[str, bool], Path]
) -> None:
    check_case(model_dir(family, tied), LAYOUTS[name], family, tied, "grpo")


@pytest.mark.parametrize("name", ["one", "cp2"])
def test_sequence_level_losses_see_whole_sequences(name: str, model_dir: Callable[[str, bool], Path]) -> None:
    check_case(model_dir("qwen3", False), LAYOUTS[name], "qwen3", False, "gspo")


@pytest.mark.parametrize("name", ["one", "dp2"])
def test_supervised_training(name: str, model_dir: Callable[[str, bool], Path]) -> None:
    check_case(model_dir("qwen3", False), LAYOUTS[name], "qwen3", False, "sft")
