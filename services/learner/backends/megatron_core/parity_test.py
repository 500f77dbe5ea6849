"""Every parallel layout against Hugging Face transformers in one process, sequence by sequence.

Two optimizer steps of the whole policy-gradient objective (clipped ratio, truncated importance weights, KL to the
initial model, entropy bonus, temperature) over packed batches: loss, clipped gradients, gradient norm and weights must
agree.
"""

import functools
from pathlib import Path

import pytest

from services.learner.backends.testing.megatron_steps import Layout, check
from services.learner.interface.settings import ParallelSettings
from services.learner.testing.tiny_models import save_tiny_model

LAYOUTS = {
    "one": Layout(1),
    "tp2": Layout(2, ParallelSettings(tensor=2)),
    "tp2-sp": Layout(2, ParallelSettings(tensor=2, sequence=True)),
    "pp2": Layout(2, ParallelSettings(pipeline=2)),
    "pp2-interleaved": Layout(2, ParallelSettings(pipeline=2, virtual=2)),
    "tp2-pp2-interleaved": Layout(4, ParallelSettings(tensor=2, pipeline=2, virtual=2)),
    "cp2": Layout(2, ParallelSettings(context=2)),
    "cp2-ulysses": Layout(2, ParallelSettings(context=2, context_attention="ulysses"), distributed=False),
    "cp4": Layout(4, ParallelSettings(context=4), distributed=False),
    # fewer KV heads than context ranks
    "cp4-ulysses": Layout(4, ParallelSettings(context=4, context_attention="ulysses"), distributed=False),
    "tp2-sp-cp2-ulysses": Layout(
        4, ParallelSettings(tensor=2, context=2, sequence=True, context_attention="ulysses"), distributed=False
    ),
    "cp2-replicated-optimizer": Layout(2, ParallelSettings(context=2), distributed=False),
    "dp2": Layout(2),
    "dp2-replicated-optimizer": Layout(2, distributed=False),
    "tp2-pp2": Layout(4, ParallelSettings(tensor=2, pipeline=2)),
    "tp2-sp-cp2": Layout(4, ParallelSettings(tensor=2, context=2, sequence=True), distributed=False),
    "pp2-dp2": Layout(4, ParallelSettings(pipeline=2)),
    "dp2-overlap": Layout(2, ParallelSettings(overlap=20_000)),  # of 160 000 numbers
    "dp2-overlap-replicated-optimizer": Layout(2, ParallelSettings(overlap=20_000), distributed=False),
    "cp2-overlap": Layout(2, ParallelSettings(context=2, overlap=20_000)),
    "pp2-dp2-overlap": Layout(4, ParallelSettings(pipeline=2, overlap=20_000)),
    "pp2-interleaved-dp2-overlap": Layout(4, ParallelSettings(pipeline=2, virtual=2, overlap=20_000)),
    "pp4": Layout(4, ParallelSettings(pipeline=4)),
    "tp2-dp2": Layout(4, ParallelSettings(tensor=2)),
    "pp2-cp2": Layout(4, ParallelSettings(pipeline=2, context=2), distributed=False),
    "cp2-dp2": Layout(4, ParallelSettings(context=2)),
    "tp4": Layout(4, ParallelSettings(tensor=4)),
    "tp4-sp": Layout(4, ParallelSettings(tensor=4, sequence=True)),  # fewer KV heads than tensor ranks
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    @functools.cache
    def make(family: str, tied: bool) -> Path:
        return save_tiny_model(tmp_path_factory.mktemp("model"), family, tied)

    return make


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_trains_as_transformers_does(name, model_dir):
    check(model_dir("qwen3", False), LAYOUTS[name], "qwen3", False, "grpo")


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
def test_every_architecture_trains_as_transformers_does(family, tied, name, model_dir):
    check(model_dir(family, tied), LAYOUTS[name], family, tied, "grpo")


@pytest.mark.parametrize("name", ["one", "cp2"])
def test_sequence_level_losses_see_whole_sequences(name, model_dir):
    check(model_dir("qwen3", False), LAYOUTS[name], "qwen3", False, "gspo")


@pytest.mark.parametrize("name", ["one", "dp2"])
def test_supervised_training(name, model_dir):
    check(model_dir("qwen3", False), LAYOUTS[name], "qwen3", False, "sft")
