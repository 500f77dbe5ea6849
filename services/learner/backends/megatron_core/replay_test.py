"""Replayed routes under every layout and recomputation, against transformers whose routers are told the same."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from penstock.recipes.sections import Lora, Optimizer, Parallel
from penstock.telemetry import steps
from penstock.trajectories import RouteShape
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.backends.packing import building
from services.learner.backends.testing.forced_routes import forced_gradients, forced_logprobs, routed_batch
from services.learner.backends.testing.gradients import gradients_of
from services.learner.interface.batch import Batch, broadcast
from services.learner.interface.policy import TokenScores
from services.learner.testing.forked_ranks import run_ranks
from services.learner.testing.one_process import LIMITS
from services.learner.testing.recipes import recipe_of, spec_of
from services.learner.testing.tiny_models import save_tiny_model, tiny_model

CASES: dict[str, tuple[int, Parallel, Any]] = {
    "one": (1, Parallel(), "none"),
    "one-selective": (1, Parallel(), "selective"),
    "one-full": (1, Parallel(), "full"),
    "dp2": (2, Parallel(), "none"),
    "ep2": (2, Parallel(expert=2), "selective"),
    "tp2-sp-ep2": (2, Parallel(tensor=2, sequence_parallel=True, expert=2), "none"),
    "tp2-sp-ep2-full": (2, Parallel(tensor=2, sequence_parallel=True, expert=2), "full"),
    "pp2": (2, Parallel(pipeline=2), "none"),
    "pp2-interleaved-full": (2, Parallel(pipeline=2, virtual_stages=2), "full"),
    "cp2-ep2": (2, Parallel(context=2, expert=2), "none"),
    "cp2-ulysses-full": (2, Parallel(context=2, context_attention="ulysses"), "full"),
    "pp2-ep2-full": (4, Parallel(pipeline=2, expert=2), "full"),
    "tp2-sp-cp2-ep2": (4, Parallel(tensor=2, sequence_parallel=True, context=2, expert=2), "selective"),
    "tp2-sp-pp2-ep2": (4, Parallel(tensor=2, sequence_parallel=True, pipeline=2, expert=2), "none"),
}
PATCH = pytest.MonkeyPatch()
"""Used in forked ranks alone, which end with what it has changed."""


class Sum:
    """Minus a hundredth of the sum of log-probs."""

    names: tuple[str, ...] = ()

    def __call__(self, scored: TokenScores) -> tuple[Tensor, Tensor]:
        return -scored.current.sum() / 100, scored.current.new_zeros(0, dtype=torch.float64)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "qwen3_moe")


@functools.cache
def expected() -> tuple[Tensor, Any]:
    model = tiny_model("qwen3_moe")
    with torch.no_grad():
        logprobs = forced_logprobs(model, routed_batch(), routed_batch().routes)
    return logprobs, forced_gradients(model, routed_batch())


def make(model_dir: Path, parallel: Parallel | None = None, recompute: Any = "none", **others: Any) -> MegatronPolicy:
    return MegatronPolicy.create(
        spec_of(
            model_dir,
            parallel,
            Optimizer(learning_rate=1e-9, clip_gradient=0.0),
            recompute=recompute,
            seed=1,
            shard_optimizer=False,
            **{"replays_routes": True, "micro_batch_tokens": 80, **others},
        )
    )


def sent(batch: Batch) -> Batch:
    return broadcast(batch if torch.distributed.get_rank() == 0 else None, torch.device("cpu"))


def _train(model_dir: Path, parallel: Parallel, recompute: str, shares: bool = True) -> Any:
    policy, batch = make(model_dir, parallel, recompute, share_prefixes=shares), sent(routed_batch())
    logprobs = policy.logprobs(batch)
    outcome = policy.train_step(batch, Sum())
    return logprobs, gradients_of(policy), outcome


def check(logprobs: Tensor, gradients: Any) -> None:
    wanted, slopes = expected()
    assert float((logprobs - wanted).abs().max()) <= LIMITS["log-prob"]
    routers = [name for name in slopes if name.endswith("mlp.gate.weight")]
    assert len(routers) == 4 and all(float(slopes[name].abs().max()) > 1e-3 for name in routers)
    for name, slope in slopes.items():
        off = float((gradients[name] - slope).abs().max() / slope.abs().max().clamp(min=1e-12))
        assert off <= LIMITS["gradient"], f"{name}: off by {off:.1e}"


@pytest.mark.parametrize("name", CASES)
def test_every_layout_computes_what_transformers_does_that_is_told_the_same(name: str, model_dir: Path) -> None:
    world, parallel, recompute = CASES[name]
    found = run_ranks(world, _train, model_dir, parallel, recompute)
    logprobs, gradients, outcome = found[0]
    check(logprobs, gradients)
    assert outcome.computed < outcome.given, "what went the same way was computed once"
    assert 0.3 < outcome.experts[steps.ROUTES_APART] < 1.0, "these routes are not the routers' own"
    assert all(each[2].experts == outcome.experts for each in found), "equal on every rank"


def test_what_went_another_way_is_not_shared(model_dir: Path) -> None:
    alone, gradients, outcome = run_ranks(1, _train, model_dir, Parallel(), "none", False)[0]
    check(alone, gradients)
    assert outcome.computed == run_ranks(1, _computed, model_dir, False, False)[0]
    found = run_ranks(1, _train, model_dir, Parallel(), "none")[0][2]
    same, different = (run_ranks(1, _computed, model_dir, True, routes)[0] for routes in (False, True))
    assert same < different < outcome.computed
    assert found.experts[steps.ROUTES_UNSHARED] == pytest.approx(1 - same / different, abs=0.1)
    assert steps.ROUTES_UNSHARED not in outcome.experts


def _computed(model_dir: Path, shares: bool, routes: bool) -> int:
    batch = routed_batch() if routes else replace(routed_batch(), routes=None)
    return make(model_dir, share_prefixes=shares).train_step(batch, Sum()).computed


def _logprobs(model_dir: Path, sabotage: bool, parallel: Parallel) -> Tensor:
    if sabotage:
        right = building._routes
        PATCH.setattr(building, "_routes", lambda *given: right(*given).roll(1, 0))
    return make(model_dir, parallel).logprobs(sent(routed_batch()))


@pytest.mark.parametrize("parallel", [Parallel(), Parallel(context=2)], ids=["one", "cp2"])
def test_rows_that_are_shifted_by_one_compute_something_else(parallel: Parallel, model_dir: Path) -> None:
    right, shifted = (run_ranks(parallel.context, _logprobs, model_dir, s, parallel)[0] for s in (False, True))
    assert float((shifted - right).abs().max()) > 1e-2
    assert float((shifted - expected()[0]).abs().max()) > 1000 * LIMITS["log-prob"]


def _others(model_dir: Path, lora: Lora | None) -> Any:
    """Log-probs with routes, of the reference with them, without any, with none that is known, and with them again."""
    batch, plain = routed_batch(), replace(routed_batch(), routes=None)
    assert batch.routes is not None
    unknown = replace(batch, routes=torch.full_like(batch.routes, 255))
    policy = make(model_dir, keep_reference=True, lora=lora)
    assert policy.takes.routes == RouteShape(4, 2, 4)
    found = [policy.logprobs(batch), policy.reference_logprobs(batch), policy.logprobs(plain), policy.logprobs(unknown)]
    return [*found, policy.logprobs(batch)]


def _without(model_dir: Path) -> Tensor:
    """Of a policy that replays none, though the batch has some; as a critic."""
    policy = make(model_dir, replays_routes=False)
    assert policy.takes.routes is None
    return policy.logprobs(routed_batch())


@pytest.mark.parametrize("lora", [None, Lora(rank=4, targets=("qkv", "output"))], ids=["whole", "lora"])
def test_the_policy_alone_replays_and_what_is_unknown_is_routed_anew(lora: Lora | None, model_dir: Path) -> None:
    replayed, reference, live, unknown, again = run_ranks(1, _others, model_dir, lora)[0]
    without = run_ranks(1, _without, model_dir)[0]
    assert float((replayed - expected()[0]).abs().max()) <= LIMITS["log-prob"]
    assert float((replayed - live).abs().max()) > 1e-2 and torch.equal(again, replayed)
    for each in (reference, unknown, without):
        assert float((each - live).abs().max()) <= LIMITS["log-prob"]


def _own(model_dir: Path) -> float:
    """A batch routed as the routers route it now: nothing is apart."""
    taken: list[Tensor] = []
    policy, batch = make(model_dir, micro_batch_tokens=4096, share_prefixes=False), routed_batch()
    routers = [layer.mlp.router for layer in policy._models[0].decoder.layers]
    for router in routers:
        router.register_forward_hook(lambda _, __, output: taken.append(output[1].nonzero()[:, 1].view(-1, 2)))
    (part,) = policy._plan(replace(batch, routes=None)).parts
    policy.logprobs(replace(batch, routes=None))
    rows = torch.stack(taken, 1).to(torch.uint8)
    assert batch.routes is not None
    whole = torch.full_like(batch.routes, 255)
    whole[_inputs(part, batch)] = rows[part.places]
    return policy.train_step(replace(batch, routes=whole), Sum()).experts[steps.ROUTES_APART]


def _inputs(part: Any, batch: Batch) -> Tensor:
    """Where in the batch the input at each of the pack's places is."""
    wanted = torch.unique_consecutive(part.owners)
    spans = [int((part.owners == owner).sum()) for owner in wanted]
    starts = {tuple(batch.tokens[s : s + n].tolist()): s for s, n in _beginnings(batch, spans)}
    tokens = part.tokens[0][part.places].split(spans)
    return torch.cat([torch.arange(n) + starts[tuple(own.tolist())] for own, n in zip(tokens, spans, strict=True)])


def _beginnings(batch: Batch, spans: list[int]) -> list[tuple[int, int]]:
    return [
        (s, n)
        for s, length in zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)
        for n in spans
        if n < length
    ]


def test_a_step_says_how_much_its_routers_would_have_chosen_otherwise(model_dir: Path) -> None:
    assert run_ranks(1, _own, model_dir)[0] == 0.0
    metrics = run_ranks(1, _grpo, model_dir)[0]
    assert 0.3 < metrics[steps.ROUTES_APART] < 1.0 and metrics["tokens"] > 0


def _grpo(model_dir: Path) -> dict[str, float]:
    """Two updates, with a pass before them for the proximal policy, and a reference."""
    recipe = recipe_of(kl=0.1, proximal="recompute", mini_batches=2)
    return make_trainer(recipe, make(model_dir, keep_reference=True)).step(routed_batch()).metrics
