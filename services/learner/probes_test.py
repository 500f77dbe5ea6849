"""What the learner says of a few samples is what transformers says of them, token by token."""

from pathlib import Path

import numpy as np
import torch

from penstock.recipes import Recipe, resolve
from penstock.tiny_model import make_model
from penstock.trajectories import from_float32s, from_int32s
from services.learner.backends.choose import make_policy
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.probes import LONGEST, MOST, probes_of
from services.learner.testing.forked_ranks import run_ranks

LENGTHS = (5, 9, 70, *(6 + i for i in range(9)))


def recipe(model: str, *canary: str) -> Recipe:
    rows = str(Path(model) / "rows.jsonl")
    Path(rows).write_text('{"prompt": "a"}\n')
    raw = {
        "run": "r",
        "model": {"path": model},
        "data": {"train": rows, "eval": rows},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 1},
        "sampling": {"max_tokens": 8},
        "generation": {"max_context": 64},
    }
    return resolve(raw, canary)


def batch() -> Batch:
    random = np.random.default_rng(0)
    made = []
    for length in LENGTHS:
        mask = np.zeros(length, np.float32)
        mask[2:] = random.random(length - 2) < 0.8
        mask[-1] = 1
        made.append(TrainingSample(random.integers(3, 60, length), mask, np.full(length, -1.0)))
    return Batch.from_samples(made, "advantage")


def probed(model: str) -> None:
    from transformers import AutoModelForCausalLM

    wanted = recipe(model, "weight_sync.canary={}")
    policy = make_policy(wanted)
    assert probes_of(recipe(model), policy, batch()) == ()
    probes = probes_of(wanted, policy, batch())
    short = [length for length in LENGTHS if length <= min(LONGEST, 63)][:MOST]
    assert [p.token_count for p in probes] == short
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for probe in probes:
        tokens, mask = torch.tensor(from_int32s(probe.tokens)).long(), np.frombuffer(probe.mask, np.uint8)
        with torch.no_grad():
            said = torch.log_softmax(reference(tokens[None, :-1]).logits[0].float(), -1)
        expected = np.concatenate([[0.0], said.gather(1, tokens[1:, None])[:, 0].numpy()]) * mask
        assert mask.any() and np.abs(from_float32s(probe.logprobs) - expected).max() < 1e-4


def test_probes_are_the_references_log_probs_of_the_first_samples_that_fit(tmp_path: Path) -> None:
    make_model(tmp_path, layers=1)
    run_ranks(1, probed, str(tmp_path))
