"""A mixture of experts under every layout against Hugging Face transformers in one process, as `parity_test`."""

import pytest

from services.learner.backends.testing.megatron_steps import Layout, check
from services.learner.interface.settings import ParallelSettings
from services.learner.testing.tiny_models import save_tiny_model

MIXTURES = {
    "one": Layout(1),
    "dp2": Layout(2),
    "ep2": Layout(2, ParallelSettings(expert=2), distributed=False),
    "ep4": Layout(4, ParallelSettings(expert=4), distributed=False),
    "ep2-dp4": Layout(4, ParallelSettings(expert=2)),
    "ep2-dp4-replicated-optimizer": Layout(4, ParallelSettings(expert=2), distributed=False),
    "ep2-dp4-overlap": Layout(4, ParallelSettings(expert=2, overlap=20_000)),
    "cp2-ep2": Layout(2, ParallelSettings(context=2, expert=2), distributed=False),
    "tp2-sp-ep2": Layout(2, ParallelSettings(tensor=2, sequence=True, expert=2)),
    "tp2-sp-ep4": Layout(4, ParallelSettings(tensor=2, sequence=True, expert=4), distributed=False),
    "tp2-sp-ep2-dp2": Layout(4, ParallelSettings(tensor=2, sequence=True, expert=2), distributed=False),
    "pp2-ep2": Layout(4, ParallelSettings(pipeline=2, expert=2), distributed=False),
    "pp2-interleaved-ep2": Layout(4, ParallelSettings(pipeline=2, virtual=2, expert=2)),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3_moe")


@pytest.mark.parametrize("name", MIXTURES)
def test_every_layout_of_a_mixture_trains_as_transformers_does(name, model_dir):
    check(model_dir, MIXTURES[name], "qwen3_moe", False, "grpo")


def test_weights_of_experts_need_not_add_up_to_one(tmp_path):
    check(save_tiny_model(tmp_path, "qwen3_moe_raw", True), MIXTURES["ep2"], "qwen3_moe_raw", True, "grpo")
