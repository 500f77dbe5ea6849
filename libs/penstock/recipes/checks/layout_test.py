"""A layout that cannot be built is refused with the nearest that can."""

import json
import pathlib
from typing import Any

import pytest

from penstock.recipes import resolve
from penstock.recipes.refusals_testing import problems
from penstock.tiny_model import make_model


def test_the_transformers_backend_refuses_what_it_does_not_have(raw: dict[str, Any]) -> None:
    backend = "learner.backend=transformers"
    for sizes in ("pipeline=2", "context=2", "sequence_parallel=true", "virtual_stages=2"):
        key, _, value = sizes.partition("=")
        text = problems(raw, backend, "learner.ranks=2", f"learner.parallel.{sizes}")
        assert f"learner.parallel.{key}: {value.capitalize()} needs" in text
        assert "learner.backend=megatron" in text
    assert "always overlaps (FSDP2)" in problems(raw, backend, "learner.parallel.overlap=true")
    cut = (backend, "learner.parallel.tensor=2")
    assert "learner.ranks: 3 is not a multiple of learner.parallel.tensor = 2" in problems(raw, *cut, "learner.ranks=3")
    adapted = problems(raw, *cut, "learner.ranks=2", "learner.lora.rank=4")
    assert "learner.parallel.tensor: 2 with learner.lora needs learner.backend=megatron" in adapted
    assert resolve(raw, (*cut, "learner.ranks=4")).learner.parallel.tensor == 2
    assert resolve(raw, (backend, "learner.ranks=3")).learner.backend == "transformers"


def test_muons_state_stays_on_the_device(raw: dict[str, Any]) -> None:
    muon = ("learner.optimizer.name=muon", "learner.offload=[optimizer]")
    assert "learner.offload: the state of adamw alone can be kept on the host" in problems(raw, *muon)


def test_a_reference_that_is_not_kept_is_not_offloaded(raw: dict[str, Any]) -> None:
    offload = "learner.offload=[optimizer, reference]"
    assert "compares with no reference, so none is kept; leave 'reference' out" in problems(raw, offload)
    compares = "algorithm.loss.kl.coefficient=0.1"
    assert "the frozen model is its own reference" in problems(raw, offload, compares, "learner.lora.rank=4")
    assert resolve(raw, (offload, compares)).learner.offload == ("optimizer", "reference")


def test_an_architecture_that_megatron_does_not_train_is_sent_to_the_other_backend(raw: dict[str, Any]) -> None:
    pathlib.Path(raw["model"]["path"], "config.json").write_text('{"architectures": ["MistralForCausalLM"]}')
    text = problems(raw)
    assert "megatron does not train MistralForCausalLM, only LlamaForCausalLM" in text
    assert "use learner.backend=transformers" in text
    assert resolve(raw, ("learner.backend=transformers",)).learner.ranks == 1


def test_sizes_that_do_not_share_out_experts(raw: dict[str, Any]) -> None:
    config = pathlib.Path(raw["model"]["path"], "config.json")
    dense = {
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 251,
    }
    config.write_text(json.dumps(dense))
    assert "learner.parallel.expert: 2 is for a mixture" in problems(
        raw, "learner.parallel.expert=2", "learner.ranks=2"
    )
    mixture = {"num_local_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    config.write_text(json.dumps(dense | mixture))
    text = problems(raw, "learner.parallel.expert=4", "learner.ranks=2")
    assert "4 does not divide the model's num_experts, 6" in text
    assert "4 does not divide the ranks of a pipeline stage, 2" in text
    text = problems(raw, "learner.parallel.tensor=2", "learner.ranks=2")
    assert "needs sequence_parallel=true and expert > 1 (they are false and 1)" in text
    assert "learner.lora.targets: gate_up, down are experts" in problems(raw, "learner.lora.rank=4")
    good = ("learner.parallel.tensor=2", "learner.parallel.sequence_parallel=true", "learner.parallel.expert=2")
    assert resolve(raw, (*good, "learner.ranks=2")).learner.parallel.expert == 2


def test_contradictory_parallel_sizes(raw: dict[str, Any]) -> None:
    text = problems(raw, "learner.ranks=3", "learner.parallel.tensor=2")
    assert "learner.ranks: 3 is not a multiple" in text and "nearest valid value is 2" in text
    assert "sequence_parallel: needs" in problems(raw, "learner.parallel.sequence_parallel=true")


def test_a_reward_models_versions_are_whole(raw: dict[str, Any]) -> None:
    del raw["environment"]
    settings = ("algorithm.name=reward_model", "learner.lora={publish: adapters}")
    assert "learner.lora.publish: a reward model's score is trained whole" in problems(raw, *settings)


def test_routes_are_replayed_where_a_mixture_draws_and_refused_elsewhere(raw: dict[str, Any]) -> None:
    """Absent, the key is decided: the resolved recipe says which."""
    key = "learner.routing_replay"
    assert resolve(raw).learner.routing_replay is False, "a dense model"
    assert "is no mixture of experts, and has no routes; use false" in problems(raw, f"{key}=true")
    make_model(pathlib.Path(raw["model"]["path"]), hidden=32, layers=2, intermediate=16, experts=8)
    assert resolve(raw).learner.routing_replay is True
    assert resolve(raw, [f"{key}=false"]).learner.routing_replay is False
    assert "use learner.backend=megatron, or false" in problems(raw, f"{key}=true", "learner.backend=transformers")
    assert "trains on no token as it was drawn" in problems(raw, f"{key}=true", "algorithm.name=sft")
    assert resolve(raw, ["algorithm.name=sft"]).learner.routing_replay is False
    text = problems(raw, "limits.log_bytes=1000")
    assert "samples that may be in flight have up to" in text and "or learner.routing_replay=false" in text
    resolve(raw, ["limits.log_bytes=1000", f"{key}=false"])


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_a_mixture_is_refused_on_the_transformers_backend_before_anything_starts(key: str, raw: dict[str, Any]) -> None:
    config = pathlib.Path(raw["model"]["path"], "config.json")
    config.write_text(json.dumps({"architectures": ["SomeMoeForCausalLM"], key: 8}))
    text = problems(raw, "learner.backend=transformers")
    assert "does not train mixtures of experts" in text and "has 8 experts" in text and "Qwen3MoeForCausalLM" in text


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["learner.devices=[0]", "learner.ranks=2"], "learner.devices: 1 GPUs for 2 ranks"),
        (["learner.devices=[1, 1]", "learner.ranks=2"], "learner.devices: 1, 1 names a GPU twice"),
        (
            ["learner.devices=[0]", "learner.ranks=4", "learner.nodes=2"],
            "1 GPUs for 2 ranks (learner.ranks / learner.n",
        ),
        (["learner.ranks=3", "learner.nodes=2"], "3 ranks cannot be shared out equally over 2 nodes (learner.nodes)"),
        (["learner.nodes=2"], "the nearest valid value is 2"),
        (["generation.devices=[3]", "generation.replicas=2"], "generation.devices: 1 GPUs for 2 replicas of 1"),
        (["generation.devices=[-1]"], "generation.devices"),
    ],
)
def test_nodes_have_whole_shares_and_named_devices_are_as_many_as_are_used(
    raw: dict[str, Any], overrides: list[str], why: str
) -> None:
    assert why in problems(raw, *overrides)
