"""What replaying a mixture's routes is worth, and what it costs: engine and learner on the same bfloat16 weights.

A real engine draws samples and records where it sent each token; the learner scores them as it would without replay,
and with it. The gap is the difference of the log-probs of what was drawn; with replay bfloat16 alone is left of it.
Times are those of the same engine, and of the same step, with and without; bytes are those of a sample in the log.

    tiny     8 experts, 2 of them a token, 4 layers
    wide     128 experts, 8 of them a token, 4 layers
    sharp    8 experts, 2 of them a token, 8 layers, routers and head with strong opinions
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from penstock.trajectories import RouteShape, TrajectoryBuilder, encode
from penstock.trajectories.building import version
from penstock.trajectories.routes import packed
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.testing.recipes import recipe_of, spec_of
from tests.bench.report import Report, median_ratio, rounds

MODELS = {"tiny": (8, 2, 4, 1.0), "wide": (128, 8, 4, 1.0), "sharp": (8, 2, 8, 4.0)}
"""Experts, of them a token, layers, and by how much routers and head are larger."""
VOCABULARY = 512


def make_directory(folder: pathlib.Path, name: str, hidden: int) -> pathlib.Path:
    """A Qwen3-MoE with random weights."""
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    experts, top, layers, opinion = MODELS[name]
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=experts,
        num_experts_per_tok=top,
        moe_intermediate_size=hidden // 2,
        norm_topk_prob=True,
        max_position_embeddings=512,
        initializer_range=0.06,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.mul_(opinion if ".gate.weight" in key or "lm_head" in key else 1.0)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def samples_of(path: pathlib.Path) -> list[TrainingSample]:
    """What the engine drew."""
    drawn, samples = np.load(path), []
    rng = np.random.default_rng(0)
    for i, (prompt, tokens) in enumerate(zip(drawn["prompts"], drawn["tokens"], strict=True)):
        mask = np.r_[np.zeros(len(prompt)), np.ones(len(tokens))]
        behaviour = np.r_[np.zeros(len(prompt)), drawn["logprobs"][i]]
        whole = np.r_[prompt, tokens]
        samples.append(TrainingSample(whole, mask, behaviour, float(rng.normal()), i // 4, routes=drawn[f"routes{i}"]))
    return samples


def gap(logprobs: torch.Tensor, batch: Batch) -> dict[str, float]:
    """Of what was drawn: the difference of learner and engine at its 99th percentile, and the KL of the two (k3)."""
    difference = (logprobs - batch.behaviour)[batch.mask > 0].double()
    kl = (difference.exp() - 1 - difference).mean()
    return {"p99": float(difference.abs().quantile(0.99)), "kl": float(kl)}


def bytes_of(sample: TrainingSample, shape: RouteShape) -> tuple[float, float]:
    """Bytes a token of its routes: as they are, and in the log beside the rest."""
    tokens = np.asarray(sample.tokens).tolist()
    builder = TrajectoryBuilder()
    builder.context("user", tokens[:64])
    builder.begin_completion()
    logprobs = np.asarray(sample.behaviour_logprobs)[64:].tolist()
    builder.drawn(tokens[64:], logprobs, [pb.VersionSegment(first=0, version=version(1, 1))])
    without = len(encode(builder.fill(pb.Trajectory())))
    assert sample.routes is not None
    builder.routed(packed(shape, sample.routes))
    whole = len(encode(builder.fill(pb.Trajectory())))
    return sample.routes.nbytes / len(sample.routes), (whole - without) / len(sample.routes)


class Side:
    """A trainer whose batch has routes, or has not."""

    def __init__(self, model: pathlib.Path, replays: bool, samples: list[TrainingSample]) -> None:
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()  # a policy keeps its groups; the globals are the last one's
        spec = spec_of(model, dtype="bfloat16", micro_batch_tokens=2048, replays_routes=replays)
        self.policy = MegatronPolicy.create(spec)
        self._samples = samples if replays else [s.__class__(**{**s.__dict__, "routes": None}) for s in samples]
        self._trainer = make_trainer(recipe_of(), self.policy)

    def step(self) -> dict[str, float]:
        """The metrics of a step, its batch made anew."""
        return self._trainer.step(self.batch()).metrics

    def batch(self) -> Batch:
        return Batch.from_samples(self._samples, "advantage")


def measure(report: Report, folder: pathlib.Path, name: str, args: argparse.Namespace) -> None:
    """One row."""
    experts, top, layers, _ = MODELS[name]
    model, drawn = make_directory(folder / name, name, args.hidden), folder / f"{name}.npz"
    side = os.path.join(os.environ.get("PENSTOCK_RUNFILES", ""), os.environ["PENSTOCK_BENCH_ROUTES_ENGINE"])
    said = subprocess.run(
        [side, model, drawn, "--tokens", str(args.tokens), "--starts", str(args.starts)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    speed = json.loads(said.stdout.splitlines()[-1])
    samples = samples_of(drawn)
    sides = {label: Side(model, label == "replayed", samples) for label in ("replayed", "live")}
    gaps: dict[str, Any] = {label: gap(s.policy.logprobs(s.batch()), s.batch()) for label, s in sides.items()}
    first = {label: s.step() for label, s in sides.items()}
    seconds = rounds(args.rounds, **{label: s.step for label, s in sides.items()})
    plain, logged = (
        statistics.fmean(each)
        for each in zip(*(bytes_of(s, RouteShape(layers, top, experts)) for s in samples), strict=True)
    )
    report.add(
        model=name,
        apart=first["replayed"]["rl.routes.apart"],
        p99_live=gaps["live"]["p99"],
        p99_replayed=gaps["replayed"]["p99"],
        kl_live=gaps["live"]["kl"],
        kl_replayed=gaps["replayed"]["kl"],
        bytes_a_token=plain,
        in_the_log=logged,
        engine_tokens_a_second=speed["tokens_a_second"],
        engine_ratio=speed["time"],
        engine_off=speed["time_off"],
        engine_busy_ratio=speed["busy"],
        engine_busy_off=speed["busy_off"],
        learner_ratio=median_ratio(seconds["replayed"], seconds["live"]),
    )


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    report = Report("routes", vars(args))
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            measure(report, pathlib.Path(folder), name, args)
    report.note(
        "bfloat16; ratios: time (busy: of processors) with recording, or replay, to without; bytes of the routes alone"
    )
    report.finish()
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=2, help="engines that are started, one after another")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    main(parser.parse_args())
