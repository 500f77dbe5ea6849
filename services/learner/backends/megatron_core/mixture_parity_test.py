"""A mixture of experts under every layout against Hugging Face transformers in one process, as `parity_test`."""

from pathlib import Path

import pytest

from penstock.recipes.sections import Parallel
from services.learner.backends.testing.megatron_steps import Case, check_case
from services.learner.testing.tiny_models import save_tiny_model

MIXTURES = {
    "one": Case(1),
    "dp2": Case(2),
    "ep2": Case(2, Parallel(expert=2), distributed=False),
    "ep4": Case(4, Parallel(expert=4), distributed=False),
    "ep2-dp4": Case(4, Parallel(expert=2)),
    "ep2-dp4-replicated-optimizer": Case(4, Parallel(expert=2), distributed=False),
    "ep2-dp4-overlap": Case(4, Parallel(expert=2, overlap=True, overlap_bucket=20_000)),
    "cp2-ep2": Case(2, Parallel(context=2, expert=2), distributed=False),
    "tp2-sp-ep2": Case(2, Parallel(tensor=2, sequence_parallel=True, expert=2)),
    "tp2-sp-ep4": Case(4, Parallel(tensor=2, sequence_parallel=True, expert=4), distributed=False),
    "tp2-sp-ep2-dp2": Case(4, Parallel(tensor=2, sequence_parallel=True, expert=2), distributed=False),
    "pp2-ep2": Case(4, Parallel(pipeline=2, expert=2), distributed=False),
    "pp2-interleaved-ep2": Case(4, Parallel(pipeline=2, virtual_stages=2, expert=2)),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3_moe")


@pytest.mark.parametrize("name", MIXTURES)
def test_every_layout_of_a_mixture_trains_as_transformers_does(name: str, model_dir: Path) -> None:
    check_case(model_dir, MIXTURES[name], "qwen3_moe", False, "grpo")


def test_weights_of_experts_need_not_add_up_to_one(tmp_path: Path) -> None:
    check_case(save_tiny_model(tmp_path, "qwen3_moe_raw", True), MIXTURES["ep2"], "qwen3_moe_raw", True, "grpo")
