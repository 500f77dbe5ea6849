"""Each silent trap of research/megatron.md that our code guards: removing the guard must change the numbers.

A parity suite says that the sum of all guards works; these say that each one is needed, so that none is tidied away.
Every test trains one step with a guard taken out and expects the gradient norm or loss to differ from the reference.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.common import chunked_head
from services.learner.backends.megatron_core import layout, model
from services.learner.backends.megatron_core import policy as megatron_policy
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.packing import zigzag
from services.learner.backends.testing.gradients import gradients_of
from services.learner.huggingface import safetensors_directory
from services.learner.testing.forked_ranks import RankFailed, run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

PATCH = pytest.MonkeyPatch()
"""Used in forked ranks alone, which end with what it has changed."""
TP2 = Parallel(tensor=2)
TP2_SP = Parallel(tensor=2, sequence_parallel=True)
CP2 = Parallel(context=2)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def _step(model_dir: Path, parallel: Parallel, sabotage: Any) -> list[float]:
    """[loss, gradient norm, size of the gradient of each norm of layer 0] of one step."""
    if sabotage is not None:
        sabotage()
    trained = MegatronPolicy.create(spec_of(model_dir, parallel, Optimizer(), micro_batch_tokens=44, seed=0))
    metrics = make_trainer(recipe_of(), trained).step(random_batch(1)).metrics
    gradients = gradients_of(trained) if parallel.context == 1 else {}
    norms = [float(g.abs().sum()) for name, g in sorted(gradients.items()) if "layers.0." in name and g.dim() == 1]
    return [metrics["loss"], metrics["grad_norm"], *norms]


@pytest.fixture(scope="module")
def right(model_dir: Path) -> list[float]:
    return run_ranks(1, _step, model_dir, Parallel(), None)[0]


def _differs(model_dir: Path, parallel: Parallel, sabotage: Any, right: Any, world: int = 2) -> bool:
    guarded = run_ranks(world, _step, model_dir, parallel, None)[0]
    assert guarded == pytest.approx(right[: len(guarded)], rel=5e-5)
    wrong = run_ranks(world, _step, model_dir, parallel, sabotage)[0]
    return any(abs(w - r) > 1e-3 * abs(r) for w, r in zip(wrong, right, strict=False))


def test_1_init_methods_set_the_tensor_parallel_attributes(model_dir: Path, right: list[float]) -> None:
    """perform_initialization=False makes the norm count tensor rank 0's shard only."""

    def sabotage() -> None:
        build = model.megatron_config

        def without(*args: Any) -> Any:
            config = build(*args)
            config.perform_initialization = False
            return config

        PATCH.setattr(model, "megatron_config", without)

    assert _differs(model_dir, TP2, sabotage, right)


def test_2_padded_vocabulary_is_masked(model_dir: Path, right: list[float]) -> None:
    """251 tokens on 2 ranks: one padded row whose logit 0 would join the softmax."""

    def sabotage() -> None:
        chunk_logits = chunked_head._chunk_logits

        def unmasked(h: Any, w: Any, t: Any, start: int, vocab: int, scale: float) -> Any:
            return chunk_logits(h, w, t, start, 252, scale)

        PATCH.setattr(chunked_head, "_chunk_logits", unmasked)

    assert _differs(model_dir, TP2, sabotage, right)


def test_3_interleaved_stages_do_not_batch_their_messages(model_dir: Path, right: list[float]) -> None:
    """Two stages that take turns and batched point-to-point messages: the wrong tensor arrives. Silently where
    micro-batches are equally long; ours mostly are not, so mostly the shapes tell."""

    def sabotage() -> None:
        build = model.megatron_config

        def batched(*args: Any) -> Any:
            config = build(*args)
            config.overlap_p2p_comm, config.batch_p2p_comm = False, True
            return config

        PATCH.setattr(model, "megatron_config", batched)

    try:
        assert _differs(model_dir, Parallel(pipeline=2, virtual_stages=2), sabotage, right)
    except RankFailed as failed:
        assert "split_with_sizes" in str(failed) or "shape" in str(failed)


def test_4_the_loss_is_summed_over_data_and_context_ranks(model_dir: Path, right: list[float]) -> None:
    """Without calculate_per_token_loss Megatron averages gradients over ranks and micro-batches."""

    def sabotage() -> None:
        build = model.megatron_config

        def without(*args: Any) -> Any:
            config = build(*args)
            config.calculate_per_token_loss = False
            return config

        PATCH.setattr(model, "megatron_config", without)

    assert _differs(model_dir, CP2, sabotage, right)


def test_5_gloo_gets_contiguous_tensors() -> None:
    """all_gather of a strided view: what our exports and attention avoid with .contiguous()."""
    assert run_ranks(2, _gather_strided)[0] == [True, True]


def _gather_strided() -> list[bool]:
    whole = torch.arange(8.0).view(2, 4)
    view = whole[:, :2].contiguous()
    parts = [torch.empty_like(view) for _ in range(2)]
    torch.distributed.all_gather(parts, view)
    return [torch.equal(part, whole[:, :2]) for part in parts]


def test_7_norm_gradients_are_summed_under_sequence_parallelism(model_dir: Path, right: list[float]) -> None:
    """Without the tag on their weights, finalize_model_grads leaves partial sums."""

    def sabotage() -> None:
        initialise = model.RMSNorm.__init__

        def untagged(self: Any, *args: Any, **kwargs: Any) -> None:
            initialise(self, *args, **kwargs)
            self.weight.sequence_parallel = False

        PATCH.setattr(model.RMSNorm, "__init__", untagged)

    assert _differs(model_dir, TP2_SP, sabotage, right)


def test_12_exported_tensors_do_not_change_with_the_next_step(model_dir: Path) -> None:
    exported, copies, later = run_ranks(1, _export_then_step, model_dir)[0]
    for name in exported:
        assert torch.equal(exported[name], copies[name]), name
        assert not torch.equal(exported[name], later[name]), name


def _export_then_step(model_dir: Path) -> Any:
    trained = MegatronPolicy.create(spec_of(model_dir, Parallel(), Optimizer(learning_rate=0.1), seed=0))
    exported = dict(trained.export())
    copies = {name: tensor.clone() for name, tensor in exported.items()}
    make_trainer(recipe_of(), trained).step(random_batch(1))
    return exported, copies, dict(trained.export())


def test_gradients_of_all_ranks_are_finalised(model_dir: Path, right: list[float]) -> None:
    """NeMo RL #3716: finish_grad_sync alone leaves norm gradients unsummed over tensor ranks."""

    def sabotage() -> None:
        def only_sync(network: list[Any], num_tokens: Any, **groups: Any) -> None:
            for chunk in network:
                chunk.finish_grad_sync()

        PATCH.setattr(megatron_policy, "_finalize", only_sync)

    assert _differs(model_dir, TP2_SP, sabotage, right)


def test_zigzag_and_rope_agree(model_dir: Path, right: list[float]) -> None:
    """A contiguous cut over context ranks gives tokens the wrong positions and the wrong past."""

    def sabotage() -> None:
        def contiguous(boundaries: Any, n: int, rank: int) -> torch.Tensor:
            total = boundaries[-1]
            return torch.arange(rank * total // n, (rank + 1) * total // n)

        PATCH.setattr(zigzag, "local_index", contiguous)

    assert _differs(model_dir, CP2, sabotage, right)


def test_tensor_ranks_need_expert_ranks(tmp_path: Path) -> None:
    """Whole experts on every tensor rank, each fed with its part of the sequence: nobody sums their gradients. The
    norm hardly shows it."""
    mixture = save_tiny_model(tmp_path, "qwen3_moe")

    def sabotage() -> None:
        PATCH.setattr(layout, "_check_experts", lambda *args: None)

    right = run_ranks(1, _expert_gradient, mixture, Parallel(), None)[0]
    shared = run_ranks(2, _expert_gradient, mixture, TP2_SP.model_copy(update={"expert": 2}), None)[0]
    torch.testing.assert_close(shared, right, rtol=0, atol=2e-5 * float(right.abs().max()))
    wrong = run_ranks(2, _expert_gradient, mixture, TP2_SP, sabotage)[0]
    assert (wrong - right).abs().max() > 0.1 * right.abs().max()


def _expert_gradient(model_dir: Path, parallel: Parallel, sabotage: Any) -> Any:
    if sabotage is not None:
        sabotage()
    trained = MegatronPolicy.create(spec_of(model_dir, parallel, Optimizer(), micro_batch_tokens=80, seed=0))
    make_trainer(recipe_of(), trained).step(random_batch(1))
    return gradients_of(trained).get("model.layers.0.mlp.experts.0.down_proj.weight")


def test_weights_are_checked_for_shape_before_copying(model_dir: Path) -> None:
    """copy_ broadcasts: a [1] tensor would fill a norm silently."""
    with pytest.raises(AssertionError, match=r"gives \(1,\) where config.json implies \(64,\)"):
        run_ranks(1, _load_misshapen, model_dir)


def _load_misshapen(model_dir: Path) -> None:
    get = safetensors_directory.SafetensorsDirectory.get

    def misshapen(self: Any, name: str) -> torch.Tensor:
        return torch.ones(1) if name == "model.norm.weight" else get(self, name)

    PATCH.setattr(safetensors_directory.SafetensorsDirectory, "get", misshapen)
    MegatronPolicy.create(spec_of(model_dir, Parallel(), Optimizer(), seed=0))
