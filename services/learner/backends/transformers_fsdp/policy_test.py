"""What the transformers backend guarantees beside its numbers: packs, exact resume, skipped steps, refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionInterface

from penstock.recipes.sections import Lora, Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.optim.guard import NonFiniteGradients
from services.learner.backends.packing import micro_batches
from services.learner.backends.transformers_fsdp import model as transformers_model
from services.learner.backends.transformers_fsdp import trial
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints.resume import load_newest
from services.learner.testing.forked_ranks import RankFailed, run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

OPTIMIZER = Optimizer(learning_rate=1e-2, weight_decay=0.1, max_skipped=2, schedule="cosine", warmup_steps=2)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def make(
    model_dir: Path,
    precision: Any = "float32",
    lora: Lora | None = None,
    budget: int = 80,
    recompute: Any = "none",
) -> TransformersPolicy:
    return TransformersPolicy.create(
        spec_of(
            model_dir,
            Parallel(),
            OPTIMIZER,
            precision,
            micro_batch_tokens=budget,
            recompute=recompute,
            seed=3,
            lora=lora,
        )
    )


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ------------------------------------------------------------------ packs
def _scores(model_dir: Path, sabotage: bool) -> Any:
    if sabotage:

        def sees_everything(module: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
            out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
            return out.transpose(1, 2), None

        AttentionInterface.register(transformers_model.OURS, sees_everything)
    policy = make(model_dir, budget=4096)
    whole = random_batch(5)
    packed = policy.logprobs(whole)
    alone = [policy.logprobs(whole.select(torch.tensor([i]))[0]) for i in range(whole.sequences)]
    return policy._network.model.config._attn_implementation, packed, torch.cat(alone)


@pytest.mark.parametrize(("sabotage", "way"), [(False, transformers_model.OURS), (True, "sdpa")])
def test_the_sequences_of_a_pack_do_not_see_each_other(sabotage: bool, way: str, model_dir: Path) -> None:
    """A way of attending that leaks is found out before the first step, and another one taken."""
    taken, packed, alone = run_ranks(1, _scores, model_dir, sabotage)[0]
    assert taken == way
    torch.testing.assert_close(packed, alone, rtol=0, atol=2e-5)


def _all_ways_leak(model_dir: Path) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(trial, "positions_of", lambda lengths: torch.arange(sum(lengths))[None])
    patch.setattr(trial, "WAYS", ("sdpa", "eager"))
    make(model_dir)


def test_a_model_that_cannot_be_packed_is_refused_on_every_rank(model_dir: Path) -> None:
    words = "Qwen3ForCausalLM cannot be trained on packed sequences .sdpa: its sequences see each other; eager: its"
    with pytest.raises(RankFailed, match=words) as raised:
        run_ranks(2, _all_ways_leak, model_dir)
    assert str(raised.value).count("Traceback") >= 2


# ------------------------------------------------------------------ resume
def _begin(model_dir: Path, root: Path, precision: str, lora: Lora | None) -> Any:
    """Two steps, a checkpoint, two more."""
    policy = make(model_dir, precision, lora)
    trainer = make_trainer(recipe_of(), policy)
    for seed in (1, 2):
        trainer.step(random_batch(seed))
    checkpoints.write(checkpoints.path_of(root, 2), policy.snapshot(), {"cursor": 812})
    saved = dict(policy.export())
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (3, 4)]
    return saved, metrics, dict(policy.export())


def _go_on(model_dir: Path, root: Path, precision: str, lora: Lora | None) -> Any:
    policy = make(model_dir, precision, lora)
    assert load_newest(root, policy.load) == (2, {"cursor": 812})
    loaded = dict(policy.export())
    trainer = make_trainer(recipe_of(), policy)
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (3, 4)]
    return loaded, metrics, dict(policy.export())


@pytest.mark.parametrize(
    ("world", "precision", "lora"),
    [(1, "float32", None), (2, "float32", None), (2, "bfloat16", None), (2, "float32", Lora(rank=3))],
    ids=["one", "two", "bfloat16", "lora"],
)
def test_resume_is_bit_identical(
    world: int, precision: str, lora: Lora | None, model_dir: Path, tmp_path: Path
) -> None:
    saved, expected, after = run_ranks(world, _begin, model_dir, tmp_path, precision, lora)[0]
    loaded, metrics, got = run_ranks(world, _go_on, model_dir, tmp_path, precision, lora)[0]
    assert equal(loaded, saved)
    assert metrics == expected
    assert equal(got, after) and not equal(got, saved)


@pytest.mark.parametrize(
    ("source", "target", "lora"),
    [(2, 1, None), (1, 4, None), (2, 4, Lora(rank=3))],
    ids=["join", "cut", "lora"],
)
def test_training_goes_on_with_another_number_of_ranks(
    source: int, target: int, lora: Lora | None, model_dir: Path, tmp_path: Path
) -> None:
    saved, expected, after = run_ranks(source, _begin, model_dir, tmp_path, "float32", lora)[0]
    loaded, metrics, got = run_ranks(target, _go_on, model_dir, tmp_path, "float32", lora)[0]
    assert equal(loaded, saved)
    for ours, theirs in zip(metrics, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
        assert ours["optimizer_steps"] == theirs["optimizer_steps"]
    for name, tensor in after.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=1e-4, msg=name)


def _save_on_megatron(model_dir: Path, root: Path) -> None:
    policy = MegatronPolicy.create(spec_of(model_dir, Parallel(), OPTIMIZER, seed=3))
    checkpoints.write(checkpoints.path_of(root, 2), policy.snapshot(), {"cursor": 812})


def _load_on_megatron(model_dir: Path, root: Path) -> None:
    policy = MegatronPolicy.create(spec_of(model_dir, Parallel(), OPTIMIZER, seed=3))
    policy.load(checkpoints.path_of(root, 2))


def test_a_checkpoint_of_the_other_backend_is_refused_by_name(model_dir: Path, tmp_path: Path) -> None:
    run_ranks(1, _save_on_megatron, model_dir, tmp_path / "megatron")
    with pytest.raises(RankFailed, match="AnotherModel.*was written by learner.backend megatron, and transformers"):
        run_ranks(1, _go_on, model_dir, tmp_path / "megatron", "float32", None)
    run_ranks(1, _begin, model_dir, tmp_path / "transformers", "float32", None)
    with pytest.raises(RankFailed, match="go on with learner.backend=transformers"):
        run_ranks(1, _load_on_megatron, model_dir, tmp_path / "transformers")


def test_a_checkpoint_with_adapters_is_not_one_without(model_dir: Path, tmp_path: Path) -> None:
    run_ranks(1, _begin, model_dir, tmp_path, "float32", Lora(rank=3))
    with pytest.raises(RankFailed, match="AnotherModel.*lora .*here None"):
        run_ranks(1, _go_on, model_dir, tmp_path, "float32", None)


# ------------------------------------------------------------------ bf16
def _in_bf16(model_dir: Path) -> Any:
    policy = make(model_dir, "bfloat16", recompute="full")
    first = dict(policy.export())
    trainer = make_trainer(recipe_of("sft"), policy)
    losses = [trainer.step(random_batch(1, "none")).metrics["loss"] for _ in range(6)]
    main = {name: fully.dtype for name, fully in policy.state._parameters.items()}
    return first, losses, set(main.values()), dict(policy.export())


def test_bf16_trains_with_fp32_main_weights(model_dir: Path) -> None:
    first, losses, main, after = run_ranks(2, _in_bf16, model_dir)[0]
    assert losses[-1] < losses[0] - 0.3
    assert main == {torch.float32}
    assert {t.dtype for t in first.values()} == {t.dtype for t in after.values()} == {torch.bfloat16}
    source = dict(run_ranks(1, _exported, model_dir)[0])
    assert all(torch.equal(first[name], source[name].bfloat16()) for name in first)


def _exported(model_dir: Path) -> Any:
    return list(make(model_dir).export())


# ------------------------------------------------------------------ planning
def _plans(model_dir: Path) -> Any:
    policy = make(model_dir, lora=Lora(rank=3))
    trainer = make_trainer(recipe_of(kl=0.1), policy)
    plan, planned = micro_batches.plan, list[int]()

    def counted(batch: Any, *rest: Any) -> Any:
        planned.append(batch.sequences)
        return plan(batch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micro_batches, "plan", counted)
        for seed in (1, 2):
            trainer.step(random_batch(seed))
    return planned, [random_batch(seed).sequences for seed in (1, 2)]


def test_a_batch_is_planned_once_a_step_however_often_it_is_scored(model_dir: Path) -> None:
    """Under the reference first, then under the weights that are trained."""
    planned, batches = run_ranks(1, _plans, model_dir)[0]
    assert planned == batches


# ------------------------------------------------------------------ memory
def _kept(model_dir: Path, recompute: str) -> Any:
    policy = make(model_dir, recompute=recompute, budget=4096)
    kept = 0

    def note(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    seen: list[int] = []

    class Sum:
        names = ()

        def __call__(self, scored: Any) -> Any:
            seen.append(kept)
            return scored.current.sum(), torch.zeros(0, dtype=torch.float64)

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        policy.train_step(random_batch(1), Sum())
    return seen[0], dict(policy.export())


def test_recomputing_keeps_a_small_part_and_changes_no_bit(model_dir: Path) -> None:
    everything, weights = run_ranks(1, _kept, model_dir, "none")[0]
    inputs, recomputed = run_ranks(1, _kept, model_dir, "full")[0]
    assert inputs < 0.2 * everything
    assert equal(weights, recomputed)


# ------------------------------------------------------------------ steps that must not be taken
def _poisoned(model_dir: Path) -> Any:
    policy = make(model_dir)
    trainer = make_trainer(recipe_of(), policy)
    layer = policy._network.model.model.layers[3].mlp.down_proj
    poison = [False]
    layer.register_forward_hook(lambda m, i, out: out * float("nan") if poison[0] and out.requires_grad else out)
    trainer.step(random_batch(1))
    before = dict(policy.export())
    poison[0] = torch.distributed.get_rank() == 0
    skipped = trainer.step(random_batch(2)).metrics
    untouched = equal(before, dict(policy.export()))
    poison[0] = False
    after = trainer.step(random_batch(3)).metrics
    poison[0] = torch.distributed.get_rank() == 0
    trainer.step(random_batch(4))
    with pytest.raises(NonFiniteGradients) as raised:
        trainer.step(random_batch(5))
    return skipped["skipped_steps"], untouched, after["grad_norm"], policy.optimizer.skipped, str(raised.value)


def test_a_gradient_that_is_not_finite_is_skipped_counted_and_named(model_dir: Path) -> None:
    for skipped, untouched, norm, in_all, words in run_ranks(2, _poisoned, model_dir):
        assert (skipped, in_all, untouched) == (1.0, 3, True)
        assert norm == norm and norm != float("inf"), "the poison stayed in the gradient"
        assert words.startswith("2 optimizer steps in a row were skipped (the most allowed): the gradient of model.")


# ------------------------------------------------------------------ refusals
def test_logits_that_the_chunked_head_would_not_compute_are_refused(tmp_path: Path) -> None:
    gemma2 = save_tiny_model(tmp_path, "gemma2")
    with pytest.raises(RankFailed, match="Gemma2ForCausalLM: its logits are not its output layer times"):
        run_ranks(1, _refused, gemma2)


def test_a_model_whose_tensors_have_other_names_in_memory_is_refused(tmp_path: Path) -> None:
    moe = save_tiny_model(tmp_path, "qwen3_moe")
    with pytest.raises(RankFailed, match="Qwen3MoeForCausalLM: transformers keeps model.layers.0.mlp.exp"):
        run_ranks(1, _refused, moe)


def _refused(model_dir: Path) -> None:
    make(model_dir)


def _edited(model_dir: Path, target: Path, **changes: Any) -> Path:
    shutil.copytree(model_dir, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


def test_a_directory_that_does_not_hold_the_model_is_refused(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(RankFailed, match="UnsupportedModel.*missing keys: .*layers.4"):
        run_ranks(2, _refused, _edited(model_dir, tmp_path / "deeper", num_hidden_layers=5, layer_types=None))
    with pytest.raises(RankFailed, match="UnsupportedModel.*transformers cannot"):
        run_ranks(1, _refused, _edited(model_dir, tmp_path / "unknown", model_type="nonesuch"))
    (broken := _edited(model_dir, tmp_path / "empty")).joinpath("model.safetensors").unlink()
    with pytest.raises(RankFailed, match="UnsupportedModel.*transformers cannot load it"):
        run_ranks(1, _refused, broken)


def _sizes(model_dir: Path) -> None:
    for sizes, words in (
        ({"tensor": 2}, "parallel.tensor = 2 must divide the number of learner ranks, 1"),
        ({"pipeline": 2}, "parallel.pipeline = 2"),
        ({"context": 2}, "parallel.context = 2"),
        ({"virtual_stages": 2}, "parallel.virtual_stages = 2"),
        ({"sequence_parallel": True}, "parallel.sequence_parallel = True"),
    ):
        with pytest.raises(ValueError, match=words):
            TransformersPolicy.create(spec_of(model_dir, Parallel(**sizes), OPTIMIZER, seed=0))
    with pytest.raises(RuntimeError, match="keep_reference"):
        make(model_dir).reference_logprobs(random_batch(1))


def test_sizes_that_it_does_not_have_are_refused_by_name(model_dir: Path) -> None:
    run_ranks(1, _sizes, model_dir)
