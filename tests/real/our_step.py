"""Our learner's step on one batch: seconds of its one thread, peak memory, and where it leaves the model.

    python -m tests.real.our_step MODEL BATCH RESULT --dtype float32 --steps 3

Makes BATCH (the rollouts of 8 questions, 8 answers each, of which `--dead` questions' all scored alike) where it is not
there yet; `trl_step` reads the same. With `--export FOLDER` the model is left there as it was before the last step
and after it, for the bench of weights.
"""

import argparse
import json
import pathlib
import resource
import time

import numpy as np
import torch
import torch.distributed as dist

from penstock.chat import ChatTokenizer
from penstock.common.v1.common_pb2 import Message
from penstock.recipes.sections import Optimizer, Parallel
from services.learner.algorithms.table import make_trainer
from services.learner.backends.megatron_core.policy import MegatronPolicy
from services.learner.huggingface import export
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.testing.recipes import recipe_of, spec_of

GROUPS, SIZE, RATE, TOKENS = 8, 8, 5e-6, 1024


def make_batch(model: pathlib.Path, path: pathlib.Path, dead: int) -> None:
    """Questions in the model's own template, answers of 8 to 24 tokens. dead: groups whose advantages are all 0."""
    chat, random = ChatTokenizer(model), np.random.default_rng(0)
    rows = []
    for group in range(GROUPS):
        a, b = random.integers(10, 100, 2)
        question = f"What is {a} + {b}? Answer with the number only."
        prompt = chat.render([Message(role="user", content=question)])
        for _ in range(SIZE):
            answer = chat.render([Message(role="user", content=f"{a} and {b} make {random.integers(20, 199)}.")])
            drawn = [*answer[-int(random.integers(8, 24)) :], chat.stop_token]
            advantage = float(random.normal()) * (group >= dead)
            rows.append({"prompt": prompt, "answer": drawn, "advantage": advantage, "group": group})
    path.write_text(json.dumps(rows))


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    if not args.batch.exists():
        make_batch(args.model, args.batch, args.dead)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    policy = MegatronPolicy.create(
        spec_of(
            args.model,
            Parallel(),
            Optimizer(learning_rate=RATE, beta2=0.999),
            args.dtype,
            micro_batch_tokens=TOKENS,
            seed=0,
            steps=args.steps,
        )
    )
    samples = []
    for row in json.loads(args.batch.read_text()):
        tokens = np.array(row["prompt"] + row["answer"])
        mask = np.r_[np.zeros(len(row["prompt"])), np.ones(len(row["answer"]))]
        samples.append(TrainingSample(tokens, mask, np.zeros(len(tokens)), row["advantage"], row["group"]))
    batch = Batch.from_samples(samples, "advantage")
    trainer = make_trainer(recipe_of(correction="none"), policy)
    seconds, began = [], 0.0
    for left in reversed(range(args.steps)):
        if args.export is not None and not left:
            export.write(policy.export(), args.model, args.export / "before")
        began = time.process_time()
        trainer.step(batch)
        seconds.append(time.process_time() - began)
    if args.export is not None:
        export.write(policy.export(), args.model, args.export / "after")
    said = policy.logprobs(batch)
    trained = sum(len(row["answer"]) for row in json.loads(args.batch.read_text()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tokens_in_all = sum(len(np.asarray(s.tokens)) for s in samples)
    result = {"seconds": seconds, "peak": peak, "logprob": float(said.sum()) / trained, "tokens": tokens_in_all}
    args.result.write_text(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "batch", "result"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--export", type=pathlib.Path, help="where the last two versions are left")
    parser.add_argument("--dead", type=int, default=0, help="groups of a new batch whose answers all scored alike")
    main(parser.parse_args())
