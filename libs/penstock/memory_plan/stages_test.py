"""The planner's numbers are those of a sheet of paper."""

import json
import pathlib
from dataclasses import replace

import pytest

from penstock.memory_plan import PlannedLayout, Shapes, layer_activations, read_shapes, stages

MODELS = pathlib.Path(__file__).parent / "testdata"

# 8 x (8 + 2 x 4) QKV + 8 x 8 output + 3 x 8 x 16 MLP = 576 shared out, 2 x 8 norms: 592 a layer; tables of 10 x 8.
SMALL = Shapes(
    hidden=8,
    intermediate=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=4,
    vocabulary=10,
    tied=False,
    qk_norm=False,
    qkv_bias=False,
)
ONE = PlannedLayout(
    tensor=1,
    pipeline=1,
    context=1,
    data=1,
    sequence_parallel=False,
    half=False,
    micro_batch_tokens=10,
    recompute=False,
)


def test_one_rank_by_hand() -> None:
    (s,) = stages(SMALL, ONE)
    assert s.parameters == SMALL.parameters == 2 * 592 + 2 * 80 + 8 == 1352
    assert (s.weights, s.gradients, s.optimizer) == (4 * 1352, 4 * 1352, 8 * 1352)
    per_token = 6 * 8 + 5 * 16 + 4 * 8 + 4 * 4 + 4 * 4
    assert layer_activations(SMALL, ONE) == per_token == 192
    assert s.activations == 4 * (2 * 10 * 192 + 5 * 10 * 8)
    assert s.head == 4 * (4 * 10 * 10 + 80)
    assert s.total == 5408 + 5408 + 10816 + 16960 + 1920
    assert s.state == 5408 + 10816


def test_a_reference_is_the_weights_once_more() -> None:
    (kept,), (plain,) = stages(SMALL, replace(ONE, keeps_reference=True)), stages(SMALL, ONE)
    assert kept.reference == kept.weights and kept.total == plain.total + plain.weights and kept.state == plain.state


def test_what_is_offloaded_is_on_the_host() -> None:
    kept = replace(ONE, keeps_reference=True)
    (on,), (off,) = stages(SMALL, kept), stages(SMALL, replace(kept, offload=("optimizer", "reference")))
    assert (off.host_optimizer, off.host_reference) == (on.optimizer, 2 * on.reference)
    assert off.optimizer == on.optimizer, "a small state fits into one slice"
    assert off.total == on.total - on.reference and off.state == on.state
    large = replace(SMALL, vocabulary=10_000_000)
    (off,) = stages(large, replace(ONE, half=True, offload=("optimizer",)))
    assert off.optimizer == 12 * 2**24 < off.host_optimizer and off.state == off.weights + off.host_optimizer


def test_a_score_stands_in_for_the_vocabulary() -> None:
    (s,) = stages(SMALL, replace(ONE, scores=True))
    assert s.parameters == 1352 - 80 + 8 and s.head == 0
    adapters = replace(ONE, scores=True, lora_rank=2, lora_targets=("output",))
    (s,) = stages(SMALL, adapters)
    assert s.trained == 2 * 2 * (8 + 8) + 8


def test_a_critic_is_a_second_model_that_trains_in_turn() -> None:
    (policy,), (critic,) = stages(SMALL, ONE), stages(SMALL, replace(ONE, scores=True))
    both = policy.beside(critic)
    assert both.parameters == policy.parameters + critic.parameters
    assert both.state == policy.state + critic.state
    assert (both.activations, both.head) == (policy.activations, policy.head)


def test_tensor_parallel_by_hand() -> None:
    (s,) = stages(SMALL, replace(ONE, tensor=2))
    assert s.parameters == 2 * (576 // 2 + 16) + 2 * 5 * 8 + 8 == 696
    assert s.activations == 4 * (2 * 10 * (48 + 128 // 2 + 16) + 400)
    assert s.head == 4 * (4 * 10 * 5 + 40)
    (sharded,) = stages(SMALL, replace(ONE, tensor=2, sequence_parallel=True))
    assert sharded.activations == 4 * (2 * 10 * (24 + 64 + 16) + 200)


def test_a_padded_vocabulary_counts() -> None:
    assert SMALL.vocabulary_parameters(4) == 3 * 8


def test_pipeline_by_hand() -> None:
    first, last = stages(SMALL, replace(ONE, pipeline=2))
    assert (first.parameters, last.parameters) == (592 + 80, 592 + 80 + 8)
    assert first.activations == 4 * (2 * 10 * 192), "two micro-batches are under way in the first of two stages"
    assert last.activations == 4 * (10 * 192 + 400)
    assert first.head == 0 and last.head > 0


def test_interleaved_stages_have_more_under_way() -> None:
    first, last = stages(SMALL, replace(ONE, pipeline=2, virtual=2))
    assert first.activations == 4 * (3 * 10 * 192)
    assert last.activations == 4 * (2 * 10 * 192 + 400)


def test_tied_embeddings_are_one_table_unless_the_stages_differ() -> None:
    tied = replace(SMALL, tied=True)
    assert tied.parameters == stages(tied, ONE)[0].parameters == 1352 - 80
    assert stages(tied, replace(ONE, pipeline=2))[1].parameters == 592 + 80 + 8


def test_bfloat16_and_sharing_of_the_optimizer_by_hand() -> None:
    (s,) = stages(SMALL, replace(ONE, half=True, data=2, context=2))
    assert (s.weights, s.gradients, s.optimizer) == (2 * 1352, 4 * 1352, 12 * 1352 // 4)
    assert s.head == 4 * (4 * 100 + 80 + 80)


def test_recompute_by_hand() -> None:
    (s,) = stages(SMALL, replace(ONE, recompute=True))
    assert s.activations == 4 * (2 * 10 * 8 + 10 * 192 + 400)
    (s,) = stages(SMALL, replace(ONE, selective=True))
    assert s.activations == 4 * (2 * 10 * (192 - 4 * 8 - 3 * 16) + 10 * 192 + 400)


def test_a_mixture_of_experts_by_hand() -> None:
    mixture = replace(SMALL, experts=4, experts_per_token=2, expert_intermediate=6)
    # 8 x (8 + 2 x 4) QKV + 8 x 8 output = 192, 16 norms, 8 x 4 router; an expert 3 x 8 x 6 = 144
    assert mixture.parameters == 2 * (192 + 16 + 32 + 4 * 144) + 2 * 80 + 8
    (s,) = stages(mixture, replace(ONE, data=4, expert=2))
    dense, experts = 2 * 240 + 168, 2 * 2 * 144
    assert s.parameters == dense + experts and s.weights == s.gradients == 4 * (dense + experts)
    assert s.optimizer == 8 * (dense // 4 + experts // 2), "two ranks have the same experts"
    per_token = 6 * 8 + 2 * (6 * 6 + 8) + 2 * 4 + 4 * 8 + 4 * 4 + 4 * 4
    assert s.activations == 4 * (2 * 10 * per_token + 5 * 10 * 8)


def test_fully_sharded_by_hand() -> None:
    (s,) = stages(SMALL, replace(ONE, fully_sharded=True, data=2))
    assert (s.weights, s.gradients, s.optimizer) == (4 * 1352 // 2, 4 * 1352 // 2, 8 * 1352 // 2)
    assert s.activations == 4 * (2 * 10 * (6 * 8 + 4 * 16 + 4 * 8 + 3 * 4) + 5 * 10 * 8)
    assert s.gathered == 4 * (168 + 2 * 592) + 8 * 592
    assert s.total == s.weights + s.gradients + s.optimizer + s.activations + s.head + s.gathered
    (halves,) = stages(SMALL, replace(ONE, fully_sharded=True, data=2, half=True, lora_rank=1, lora_targets=("qkv",)))
    assert halves.weights == 4 * (1352 + 2 * (8 + 16)) // 2, "main weights are fp32"
    assert halves.gathered == 2 * (168 + 2 * 592), "a frozen model has no gradient"


def test_adapters_by_hand() -> None:
    layout = replace(ONE, tensor=2, half=True, lora_rank=3, lora_targets=("qkv", "down"))
    (s,) = stages(SMALL, layout)
    assert s.trained == 2 * 3 * ((8 + 16 // 2) + (16 // 2 + 8)) == 192
    assert s.parameters == 696 + 192
    assert (s.weights, s.gradients, s.optimizer) == (2 * 888, 4 * 192, 12 * 192)
    assert s.head == 4 * (4 * 10 * 5 + 40), "a frozen output layer has no gradient"


def test_context_parallel_by_hand() -> None:
    layout = replace(ONE, context=2)
    assert layer_activations(SMALL, layout) == 192 + 2 * 4 * 2 + 8 * 5
    assert stages(SMALL, layout)[0].activations == 4 * (2 * 5 * 248 + 5 * 5 * 8), "half the tokens on each rank"
    assert layer_activations(SMALL, replace(layout, ulysses=True)) == 192 + 2 * 4, "one KV head is repeated for two"
    grouped = replace(SMALL, heads=4, kv_heads=2, head_dim=2)
    assert layer_activations(grouped, replace(layout, ulysses=True)) == layer_activations(grouped, ONE)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-32b", 32_762_123_264),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("llama3-70b", 70_553_706_496),
    ],
)
def test_known_models_have_their_published_size(model: str, parameters: int) -> None:
    shapes = read_shapes(MODELS / model)
    assert shapes is not None and shapes.parameters == parameters


def test_unknown_shapes_are_no_reason_to_refuse(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"n_layer": 3}))
    assert read_shapes(tmp_path) is None and read_shapes(tmp_path / "nowhere") is None
