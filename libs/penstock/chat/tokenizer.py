"""A model's tokenizer and chat template as the rollout needs them.

An episode's tokens are:  render(prompt) + drawn + after_turn(observation) + drawn + ...
`after_turn` renders only the new messages (and what the template puts between turns), so the model's own tokens are
never decoded and encoded again: what is trained is what was drawn.

The stop token that ends a turn is the last of the model's tokens. Templates put more behind it (Qwen: a newline); that
belongs to the next context.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

from penstock.common.v1.common_pb2 import Message


class TemplateError(ValueError):
    """The model's chat template cannot be used turn by turn."""


class ChatTokenizer:
    """Tokens and text of one model. Raises OSError if the directory has no tokenizer, TemplateError if no template."""

    def __init__(self, model: str | pathlib.Path) -> None:
        from transformers import AutoTokenizer  # slow to import: only where a tokenizer is really made
        from transformers.utils import logging

        logging.set_verbosity_error()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(model))
        if not self._tokenizer("a")["input_ids"]:  # transformers makes one without a vocabulary where it finds no files
            raise OSError(f"{model}: there is no tokenizer in it")
        if not self._tokenizer.chat_template:
            raise TemplateError(f"{model}: the tokenizer has no chat template")
        if self._tokenizer.eos_token_id is None:
            raise TemplateError(f"{model}: the tokenizer has no end-of-turn token (eos_token)")
        self.stop_token: int = self._tokenizer.eos_token_id

    def __len__(self) -> int:
        return len(self._tokenizer)

    def render(self, messages: Sequence[Message], *, generate: bool = True) -> list[int]:
        """Tokens of a conversation; with `generate`, up to where the assistant's next turn begins."""
        try:
            ids: list[int] = self._tokenizer.apply_chat_template(
                [self._plain(m) for m in messages], add_generation_prompt=generate, return_dict=False
            )
        except jinja2.TemplateError as error:  # the template refuses these messages: roles out of turn, say
            raise TemplateError(f"the chat template refuses the conversation: {error}") from error
        return ids

    def after_turn(self, messages: Sequence[Message], last: int | None = None) -> list[int]:
        """Tokens between the end of the model's turn and its next turn: the observation.

        last: the turn's last token. Where that is not the stop token (a stop text ended the turn), the observation
        begins with the stop token, as the template would have it.
        """
        base = [Message(role="user", content="0"), Message(role="assistant", content="0")]
        end = self._end_of_turn
        tokens = self.render([*base, *messages])
        if tokens[: len(end)] != end:
            raise TemplateError("the chat template renders earlier turns differently once later ones follow")
        closed = last is None or last == self.stop_token
        return ([] if closed else [self.stop_token]) + tokens[len(end) :]

    def demonstration(
        self, messages: Sequence[Message], *, context: int = 0, roles: Sequence[str] = ("assistant",)
    ) -> tuple[list[int], list[int]]:
        """Tokens [n] and mask [n] of a conversation; 1 on what is trained: every turn of the given `roles`.

        An assistant's turn is what a model draws: from behind the header to the stop token, which is included. A turn
        of another role is all that the template writes for it, header and all; "all" trains every token. The first
        token is never trained, since nothing predicts it, and the first `context` messages are not, whoever wrote them.
        Tokens behind the last trained one are left out.
        """
        tokens = self.render(messages, generate=False)
        mask = [0] * len(tokens)
        for i, message in enumerate(messages):
            if i >= context and ("all" in roles or message.role in roles):
                start, end = self._turn(tokens, messages, i, drawn="all" not in roles and message.role == "assistant")
                mask[start:end] = [1] * (end - start)
        mask[:1] = [0] * len(mask[:1])
        if 1 not in mask:
            raise TemplateError(f"a demonstration needs at least one message of {', '.join(roles)}")
        last = max(i for i, m in enumerate(mask) if m)
        return tokens[: last + 1], mask[: last + 1]

    def _turn(self, tokens: list[int], messages: Sequence[Message], i: int, *, drawn: bool) -> tuple[int, int]:
        """Where the i-th message lies in the `tokens` of the conversation: what a model draws of it, or all of it."""
        before = self.render(messages[:i], generate=drawn) if i or drawn else []
        turn = self.render(messages[: i + 1], generate=False)
        end = self._last_stop(turn) + 1 if drawn else len(turn)
        if tokens[: len(before)] != before or tokens[:end] != turn[:end]:
            raise TemplateError("the chat template renders earlier turns differently once later ones follow")
        return len(before), end

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special tokens."""
        decoded: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return decoded

    @functools.cached_property
    def _end_of_turn(self) -> list[int]:
        base = [Message(role="user", content="0"), Message(role="assistant", content="0")]
        tokens = self.render(base, generate=False)
        return tokens[: self._last_stop(tokens) + 1]

    def _last_stop(self, tokens: Sequence[int]) -> int:
        for i in range(len(tokens) - 1, -1, -1):
            if tokens[i] == self.stop_token:
                return i
        raise TemplateError("the chat template does not end an assistant's turn with the tokenizer's eos_token")

    @staticmethod
    def _plain(message: Message) -> dict[str, Any]:
        plain: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            plain["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments_json}}
                for c in message.tool_calls
            ]
        return plain
