"""Scores are those of transformers, answer by answer, however they are batched; what cannot be read is refused."""

import json
import pathlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from penstock.sdk import Message, Sample
from penstock.tiny_model import make_model
from services.reward_model.model import CannotScore, RewardModel, RewardModelError, batches
from services.reward_model.models_testing import make_reward_model

STOP = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_reward_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: pathlib.Path) -> RewardModel:
    return RewardModel(folder, batch_tokens=64)


def sample(completion: str, finish: Any = "stop", *prompt: Message) -> Sample:
    return Sample("1", prompt or (Message("user", "c3a"),), completion, finish)


ANSWERS = ["3ac", "", "3", "a" * 40, "3ca", "0123456789", "zz"]


def one_by_one(folder: pathlib.Path, sequences: list[tuple[int, ...]]) -> list[float]:
    """Without padding transformers' own pooling has nothing to go wrong with."""
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    theirs.config.pad_token_id = None
    with torch.no_grad():
        return [theirs(torch.tensor([s])).logits[0, 0].item() for s in sequences]


def test_scores_are_those_of_transformers_however_they_are_batched(folder: pathlib.Path, model: RewardModel) -> None:
    sequences = [model.tokens(sample(answer)) for answer in ANSWERS]
    expected = one_by_one(folder, sequences)
    assert len({round(score, 3) for score in expected}) == len(ANSWERS), "scores that are alike prove nothing"
    assert model.scores(sequences) == pytest.approx(expected, abs=1e-5)
    assert model.scores(sequences[::-1]) == pytest.approx(expected[::-1], abs=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma2"])
def test_every_family_is_served_with_its_own_scores(family: str, tmp_path: pathlib.Path) -> None:
    folder = make_reward_model(tmp_path, family)
    model = RewardModel(folder, batch_tokens=64)
    sequences = [model.tokens(sample(answer)) for answer in ANSWERS]
    assert model.scores(sequences) == pytest.approx(one_by_one(folder, sequences), abs=1e-5)


def test_an_answer_that_ends_with_the_padding_token_is_read_to_its_end(tmp_path: pathlib.Path) -> None:
    folder = make_reward_model(tmp_path, pad_token_id=STOP)  # as models without padding of their own are often set up
    model = RewardModel(folder)
    sequences = [model.tokens(sample(answer)) for answer in ANSWERS]
    assert {s[-1] for s in sequences} == {STOP}
    assert model.scores(sequences) == pytest.approx(one_by_one(folder, sequences), abs=1e-5)


def test_the_answer_is_read_behind_its_whole_conversation(model: RewardModel) -> None:
    turns = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "v"))
    tokens = model.tokens(sample("x", "stop", *turns))
    short = model.tokens(sample("x", "stop", Message("user", "v")))
    assert tokens[-len(short) :] == short and len(tokens) == len(short) + 9


def test_an_answer_that_was_cut_short_has_no_stop_token(model: RewardModel) -> None:
    whole, cut = model.tokens(sample("3a")), model.tokens(sample("3a", "length"))
    assert whole[-1] == STOP and cut == whole[:-1]
    assert model.scores([whole]) != pytest.approx(model.scores([cut]), abs=1e-3)


def test_what_the_model_cannot_read_is_refused_with_its_numbers(model: RewardModel) -> None:
    with pytest.raises(CannotScore, match="it has 307 tokens, the reward model 256 positions"):
        model.tokens(sample("a" * 300))
    with pytest.raises(CannotScore, match="1000003 characters, too many for 256 positions"):
        model.tokens(sample("a" * 1_000_000))


def test_a_template_that_refuses_the_conversation_refuses_the_answer(tmp_path: pathlib.Path) -> None:
    folder = make_reward_model(tmp_path)
    template = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template += "{{ '<|user|>' + m['content'] + '<|end|>' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ '<|user|>' }}{% endif %}"
    (folder / "chat_template.jinja").write_text(template)
    model = RewardModel(folder)
    with pytest.raises(CannotScore, match="no system"):
        model.tokens(sample("x", "stop", Message("system", "s"), Message("user", "u")))


def _language_model(folder: pathlib.Path) -> None:
    make_model(folder)


def _classifier(folder: pathlib.Path) -> None:
    make_reward_model(folder, id2label={"0": "a", "1": "b", "2": "c"})


def _headless(folder: pathlib.Path) -> None:
    make_reward_model(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("score.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _without_tokenizer(folder: pathlib.Path) -> None:
    make_reward_model(folder)
    for path in folder.glob("token*"):
        path.unlink()


def _torn(folder: pathlib.Path) -> None:
    make_reward_model(folder)
    (folder / "config.json").write_text("{")


REFUSED = {
    "Qwen3ForCausalLM is not a reward model": _language_model,
    "has 1 label, this classifier has 3": _classifier,
    "no weights for score.weight": _headless,
    "cannot be loaded": _without_tokenizer,
    "is not a Hugging Face model directory": _torn,
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_directory_without_a_reward_model_is_refused(words: str, tmp_path: pathlib.Path) -> None:
    REFUSED[words](tmp_path)
    with pytest.raises(RewardModelError, match=words) as error:
        RewardModel(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_config_without_labels_means_two_of_them(tmp_path: pathlib.Path) -> None:
    make_reward_model(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw.pop("id2label")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(RewardModelError, match="this classifier has 2"):
        RewardModel(tmp_path)


@given(st.lists(st.integers(1, 50)), st.integers(1, 120))
def test_every_answer_stands_in_one_batch_within_the_budget_or_alone(lengths: list[int], budget: int) -> None:
    made = batches(lengths, budget)
    assert sorted(i for batch in made for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in made)
