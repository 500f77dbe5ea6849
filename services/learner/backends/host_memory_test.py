"""State on the host gives, bit by bit, what state on the device gives; and the device does without it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.recipes.sections import Lora, Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.common import host_memory as host
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.transformers_fsdp.policy import TransformersPolicy
from services.learner.checkpoints import directory as checkpoints
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import random_batch, save_tiny_model

SLICE = 4096
"""Of the tiny model's 160 000 numbers; tensors larger and smaller than this."""


# ------------------------------------------------------------------ the optimizer alone
def _parameters() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for shape in ((40, 30), (7,), (64,), (3, 5, 11), (1000,))]


def _adamw(parameters: list[torch.Tensor], fused: bool) -> torch.optim.AdamW:
    groups = [{"params": parameters[:2], "weight_decay": 0.1}, {"params": parameters[2:], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-2, fused=fused)


@pytest.mark.parametrize("fused", [False, True])
def test_slices_take_the_step_of_the_whole(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SLICE", 256)
    ours, theirs = _parameters(), _parameters()
    plain, hosted = _adamw(theirs, fused), _adamw(ours, fused)
    model = ours[0].clone().view(-1)  # what has the values of the first, whose home is the host
    sizes: list[int] = []
    inner = hosted.step

    def counted() -> None:
        sizes.append(sum(p.numel() for group in hosted.param_groups for p in group["params"]))
        inner()

    hosted.step = counted
    state = host.HostedState(hosted, {ours[0]: model})
    generator = torch.Generator().manual_seed(2)
    for step in range(4):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(a.shape, generator=generator)
            a.grad, b.grad = (None, None) if i == 3 and step % 2 else (gradient.clone(), gradient.clone())
        hosted.step()
        plain.step()
        assert ours[0].untyped_storage().nbytes() == 0, "a main weight stays on the device"
        assert torch.equal(model.view_as(theirs[0]), theirs[0]) and torch.equal(state.home(ours[0]), theirs[0])
        assert all(torch.equal(a, b) for a, b in zip(ours[1:], theirs[1:], strict=True))
    assert 192 < max(sizes) <= 256 and len(hosted.param_groups) == 2
    assert hosted.state.keys() == set(ours), "a slice is left behind"
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(hosted.state[a][key], plain.state[b][key]) for key in ("step", *host.MOMENTS))


def test_another_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"torch's AdamW alone, and Megatron chose .*SGD; leave 'optimizer' out"):
        host.HostedState(torch.optim.SGD([torch.zeros(2)], lr=1.0))


# ------------------------------------------------------------------ policies
LAYOUTS: dict[str, tuple[int, Parallel, str, bool, Lora | None]] = {
    "one": (1, Parallel(), "float32", True, None),
    "one, adapters": (1, Parallel(), "bfloat16", True, Lora(rank=4)),
    "dp2, bf16, overlap": (2, Parallel(overlap=True, overlap_bucket=20_000), "bfloat16", True, None),
    "tp2-sp, bf16, replicated": (2, Parallel(tensor=2, sequence_parallel=True), "bfloat16", False, None),
    "ep2, a mixture": (2, Parallel(expert=2), "bfloat16", True, None),
}
TRANSFORMERS = {
    "transformers 1": (1, Parallel(), "float32", True, None),
    "transformers 2, bf16": (2, Parallel(), "bfloat16", True, None),
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


@pytest.fixture(scope="module")
def mixture_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("mixture"), "qwen3_moe")


def _make(model_dir: Path, name: str, hosted: bool) -> Any:
    host.SLICE = SLICE
    _, parallel, precision, distributed, lora = (LAYOUTS | TRANSFORMERS)[name]
    backend = TransformersPolicy if name in TRANSFORMERS else MegatronPolicy
    return backend.create(
        spec_of(
            model_dir,
            parallel,
            Optimizer(learning_rate=1e-2, weight_decay=0.1),
            precision,
            shard_optimizer=distributed,
            offload=("optimizer", "reference") if hosted else (),
            micro_batch_tokens=80,
            seed=1,
            keep_reference=True,
            lora=lora,
        )
    )


def _begin(model_dir: Path, root: Path, name: str, hosted: bool) -> Any:
    """Two steps, a checkpoint, two more; with a reference in all of them."""
    policy = _make(model_dir, name, hosted)
    trainer = make_trainer(recipe_of(kl=0.1), policy)
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (1, 2)]
    checkpoints.write(checkpoints.path_of(root, 2), policy.snapshot(), {})
    metrics += [trainer.step(random_batch(seed)).metrics for seed in (3, 4)]
    return metrics, dict(policy.export()), policy.reference_logprobs(random_batch(5))


def _go_on(model_dir: Path, root: Path, name: str, hosted: bool) -> Any:
    policy = _make(model_dir, name, hosted)
    policy.load(checkpoints.path_of(root, 2))
    trainer = make_trainer(recipe_of(kl=0.1), policy)
    metrics = [trainer.step(random_batch(seed)).metrics for seed in (3, 4)]
    return metrics, dict(policy.export()), policy.reference_logprobs(random_batch(5))


def _same(a: Any, b: Any) -> bool:
    return a[0] == b[0] and all(torch.equal(a[1][k], b[1][k]) for k in a[1]) and torch.equal(a[2], b[2])


@pytest.mark.parametrize("name", [*LAYOUTS, *TRANSFORMERS])
def test_steps_and_checkpoints_are_those_of_the_device(
    name: str, model_dir: Path, mixture_dir: Path, tmp_path: Path
) -> None:
    model_dir = mixture_dir if "mixture" in name else model_dir
    world = (LAYOUTS | TRANSFORMERS)[name][0]
    roots = {hosted: tmp_path / str(hosted) for hosted in (False, True)}
    plain, hosted = (run_ranks(world, _begin, model_dir, roots[h], name, h)[0] for h in (False, True))
    assert _same(plain, hosted)
    for path in sorted(checkpoints.path_of(roots[False], 2).glob("*.pt")):
        written = (
            torch.load(path, weights_only=True),
            torch.load(roots[True] / "step-000002" / path.name, weights_only=True),
        )
        assert _equal(*written), f"{path.name} depends on where the state is"
    expected = (plain[0][2:], *plain[1:])
    for source, target in ((False, True), (True, False)):
        assert _same(expected, run_ranks(world, _go_on, model_dir, roots[source], name, target)[0]), (source, target)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


def _left(model_dir: Path) -> Any:
    policy = _make(model_dir, "dp2, bf16, overlap", True)
    make_trainer(recipe_of(), policy).step(random_batch(1))
    mains = [piece.main for _, piece in policy.optimizer._pieces()]
    return len(mains), {main.untyped_storage().nbytes() for main in mains}


def test_main_weights_leave_no_memory_behind(model_dir: Path) -> None:
    count, sizes = run_ranks(2, _left, model_dir)[0]
    assert count > 10 and sizes == {0}
