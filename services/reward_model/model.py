"""A trained reward model: a Hugging Face sequence classifier with one label, and its tokenizer.

An answer is scored as it was in training (by the learner's algorithm `reward_model`): the conversation rendered by the
model's own chat template, read at its last token, the stop token that ended the answer. One that was cut short has no
stop token and is read where it ends.

The score is taken from the final hidden states at a position that is known, not by transformers' own pooling, which
looks for the last token that is not padding and takes the one before where an answer ends with it.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

from penstock.chat import ChatTokenizer, TemplateError
from penstock.sdk import Message, Sample
from penstock.sdk.hosting.wire import message_to_proto

CHARACTERS_PER_TOKEN = 64
"""No text has so many per token on average; a longer one is refused before it is rendered and tokenised."""

UNLIMITED = 2**31
"""Positions of a model that counts none."""


class RewardModelError(ValueError):
    """The directory holds no reward model that can be served; the text says why."""


class CannotScore(ValueError):
    """The model cannot read this answer; the text says why."""


class RewardModel:
    """The model on this process's device. Not thread-safe: one caller at a time.

    Args:
        path: Hugging Face directory. dtype: float32, bfloat16 or float16.
        batch_tokens: most tokens of one forward pass, padding included; a longer answer gets one of its own.

    Raises:
        RewardModelError: see there.
    """

    def __init__(self, path: str | pathlib.Path, dtype: str = "float32", batch_tokens: int = 8192) -> None:
        check_model(path)
        from transformers import AutoModelForSequenceClassification  # slow to import: after what is cheap to refuse

        try:
            self._chat = ChatTokenizer(path)
            self._model, told = AutoModelForSequenceClassification.from_pretrained(
                str(path), dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:  # TemplateError too
            raise RewardModelError(f"{path} cannot be loaded: {error}") from error
        if told["missing_keys"]:
            raise RewardModelError(f"{path} has no weights for {', '.join(sorted(told['missing_keys'])[:3])}")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(self._device).eval()
        self._body = getattr(self._model, self._model.base_model_prefix)
        if not isinstance(getattr(self._model, "score", None), torch.nn.Linear):
            raise RewardModelError(f"{path}: {type(self._model).__name__} has no linear head named score")
        self._batch_tokens = batch_tokens
        config = self._model.config.get_text_config()
        self._positions: int = getattr(config, "max_position_embeddings", None) or UNLIMITED
        self._vocabulary: int = self._model.get_input_embeddings().weight.shape[0]

    def tokens(self, sample: Sample) -> tuple[int, ...]:
        """What the model reads of a sample. Raises CannotScore."""
        characters = len(sample.completion) + sum(len(m.content) for m in sample.prompt)
        if characters > CHARACTERS_PER_TOKEN * self._positions:
            raise CannotScore(f"it has {characters} characters, too many for {self._positions} positions")
        answer = Message("assistant", sample.completion)
        conversation = [message_to_proto(m) for m in (*sample.prompt, answer)]
        try:
            tokens, _ = self._chat.demonstration(conversation, context=len(sample.prompt))
        except TemplateError as error:
            raise CannotScore(str(error)) from error
        if sample.finish_reason == "length":
            tokens = tokens[:-1]
        if len(tokens) > self._positions:
            raise CannotScore(f"it has {len(tokens)} tokens, the reward model {self._positions} positions")
        if max(tokens) >= self._vocabulary:
            raise CannotScore(f"token {max(tokens)} is outside the reward model's vocabulary of {self._vocabulary}")
        return tuple(tokens)

    @torch.inference_mode()
    def scores(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """One score per sequence, in order; NaN where the model says NaN."""
        result = [0.0] * len(sequences)
        for members in batches([len(s) for s in sequences], self._batch_tokens):
            for i, score in zip(members, self._forward([sequences[i] for i in members]), strict=True):
                result[i] = score
        return result

    def _forward(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        lengths = torch.tensor([len(s) for s in sequences], device=self._device)
        tokens = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.int64, device=self._device)
        for row, sequence in zip(tokens, sequences, strict=True):
            row[: len(sequence)] = torch.tensor(sequence, device=self._device)
        # Padding stands behind every real token, where causal attention cannot see it; the mask says so too.
        mask = torch.arange(tokens.shape[1], device=self._device) < lengths[:, None]
        hidden = self._body(tokens, attention_mask=mask.long(), use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(sequences), device=self._device), lengths - 1]
        scores: list[float] = self._model.score(last)[:, 0].float().tolist()
        return scores


def check_model(path: str | pathlib.Path) -> None:
    """Raises RewardModelError unless the directory's config is that of a sequence classifier with one label."""
    try:
        config: Any = json.loads(pathlib.Path(path, "config.json").read_text())
    except (OSError, ValueError) as error:
        raise RewardModelError(f"{path} is not a Hugging Face model directory: {error}") from error
    architecture = (config.get("architectures") or ["(none)"])[0]
    if not architecture.endswith("ForSequenceClassification"):
        raise RewardModelError(
            f"{path}: {architecture} is not a reward model (…ForSequenceClassification with 1 label)"
        )
    labels = len(config.get("id2label") or (0, 1))  # a config without labels means two of them
    if labels != 1:
        raise RewardModelError(f"{path}: a reward model has 1 label, this classifier has {labels}")


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of similar length: number × longest ≤ budget, or one alone. Each index stands in one batch."""
    made: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if made and (len(made[-1]) + 1) * lengths[made[-1][0]] <= budget:
            made[-1].append(i)
        else:
            made.append([i])
    return made
