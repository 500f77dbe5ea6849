"""Held-out rows take the way of training rows, and are measured without training anything."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.chat import ChatTokenizer
from penstock.datasets import DatasetError
from penstock.recipes import Recipe, resolve
from penstock.tiny_model import make_model
from services.learner.algorithms.reward_model.answers import BEHIND
from services.learner.algorithms.sources import Sources
from services.learner.algorithms.table import make_trainer
from services.learner.backends.choose import make_policy
from services.learner.leader.idle import Idle
from services.learner.testing.forked_ranks import run_ranks
from services.learner.validation import Validation, held_out_batch

ROWS = [{"prompt": p, "target": t, "chosen": t, "rejected": t[::-1]} for p, t in (("cab", "abc"), ("21", "12"))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder, layers=1)
    return folder


def recipe(folder: Path, model: Path, rows: list[dict[str, Any]] = ROWS, **algorithm: Any) -> Recipe:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return resolve(
        {
            "run": "r",
            "model": {"path": str(model)},
            "data": {"train": str(folder / "rows.jsonl"), "eval": str(folder / "rows.jsonl")},
            "algorithm": {"steps": 4, "group_size": 2, **algorithm},
            "evaluation": {"every": 2, "tasks": 8},
            "learner": {"parallel": algorithm.pop("parallel", {})},
        }
    )


def test_demonstrations_and_ranked_answers_become_what_is_trained_on(tmp_path: Path, model: Path) -> None:
    chat = ChatTokenizer(model)
    sft = recipe(tmp_path, model, name="sft")
    batch = held_out_batch(sft, Sources.of(sft))
    trained = [t for t, on in zip(batch.tokens.tolist(), batch.mask.tolist(), strict=True) if on]
    assert chat.text(trained) == "abc12" and batch.sequences == 2
    ranked = recipe(tmp_path, model, name="reward_model")
    batch = held_out_batch(ranked, Sources.of(ranked))
    assert batch.sequences == 4 and batch.groups.tolist() == [0, 0, 1, 1]
    assert [x.tolist()[-2:] for x in batch.tokens.split(batch.lengths.tolist())] == [[chat.stop_token, BEHIND]] * 4


def test_rows_that_cannot_be_measured_are_named_and_none_at_all_is_an_error(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    no_answer = {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
    mixed = recipe(tmp_path, model, [no_answer, ROWS[0]], name="sft")
    with caplog.at_level(logging.WARNING):
        assert held_out_batch(mixed, Sources.of(mixed)).sequences == 1
    assert "rows.jsonl, line 1" in caplog.text and "at least one message of assistant" in caplog.text
    none = recipe(tmp_path, model, [no_answer], name="sft")
    with pytest.raises(DatasetError, match=r"none of 1 rows can be measured .*line 1"):
        held_out_batch(none, Sources.of(none))


def _measured(made: Recipe) -> Any:
    policy = make_policy(made)
    trainer = make_trainer(made, policy)
    sources = Sources.of(made)
    validation = Validation.of(made, sources, trainer, torch.device("cpu"))
    before = dict(policy.export())
    said = {step: validation.measure(step, Idle()) for step in (0, 1, 2, 4)}
    batch = held_out_batch(made, sources)
    logprobs, after = (policy.scores if made.trains_reward_model else policy.logprobs)(batch), dict(policy.export())
    step = trainer.step(batch).metrics
    return said, all(torch.equal(before[k], after[k]) for k in after), (logprobs, batch), step


@pytest.mark.parametrize("name", ["sft", "reward_model", "dpo"])
def test_what_is_measured_is_the_loss_of_training_and_changes_nothing(name: str, tmp_path: Path, model: Path) -> None:
    preference: dict[str, Any] = {"preference": {"source": "dataset", "nll_coefficient": 0.5}} if name == "dpo" else {}
    made = recipe(tmp_path, model, name=name, **preference)
    said, unchanged, (logprobs, batch), step = run_ranks(1, _measured, made)[0]
    assert set(said[0]) == set(made.method.measures(made.algorithm)), "the recipe's checks know what is measured"
    assert unchanged and said[1] == {} and said[0] == said[2] == said[4]
    if name == "sft":
        assert said[0] == {"loss": pytest.approx(-float((logprobs * batch.mask).sum() / batch.mask.sum()))}
    assert said[0].items() <= step.items() or said[0]["loss"] == pytest.approx(step["loss"], rel=1e-6)


def test_every_rank_measures_the_same(tmp_path: Path, model: Path) -> None:
    made = recipe(tmp_path, model, name="sft")
    one = run_ranks(1, _measured, made)[0][0]
    both = run_ranks(2, _measured, made)
    assert both[0][0] == both[1][0] and both[0][0][0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-6)
