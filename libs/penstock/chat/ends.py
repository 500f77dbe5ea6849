"""Which tokens end a turn: the template's own, and every one that the model's generation config names.

A tokenizer's eos is not enough: a base model's is `<|endoftext|>`, and its template ends turns with `<|im_end|>`.
"""

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.chat.template import TURN, Template, TemplateError
from penstock.chat.words import Words
from penstock.common.v1.common_pb2 import Message


@dataclass(frozen=True)
class Ends:
    """How turns end.

    Attributes:
      token: the one that the template writes last of a turn (the tokenizer's eos where it writes none).
      tokens: all that end a turn when they are drawn, `token` first.
      closing: the template's text of the control tokens right behind a turn, and how many they are.
    """

    token: int
    tokens: tuple[int, ...]
    closing: str
    count: int


def ends_of(model: str | pathlib.Path, tokenizer: Any, template: Template, words: Words) -> Ends:
    """Raises TemplateError where nothing ends a turn, or a token that does is not in the vocabulary."""
    question = Message(role="user", content="0")
    text = template.render([question, Message(role="assistant", content=TURN)], generate=False)
    _, found, rest = text.rpartition(TURN)
    if not found:
        raise TemplateError("the chat template leaves out what the assistant says")
    run = _leading(words.encoded(rest), set(tokenizer.added_tokens_decoder))
    named = [*_generation_config(model), *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])]
    size = len(tokenizer)
    outside = [token for token in named if not 0 <= token < size]
    if outside:
        raise TemplateError(f"{model}: end-of-turn token {outside[0]} is outside the vocabulary of {size} tokens")
    tokens = tuple(dict.fromkeys([*run[-1:], *named]))
    if not tokens:
        raise TemplateError(
            f"{model}: nothing ends a turn: neither the chat template nor generation_config.json nor the tokenizer "
            "names a token for it"
        )
    closing = "".join(tokenizer.added_tokens_decoder[token].content for token in run)
    return Ends(tokens[0], tokens, closing, len(run))


def _leading(tokens: Sequence[int], control: set[int]) -> list[int]:
    """The control tokens that the tokens begin with."""
    count = next((i for i, token in enumerate(tokens) if token not in control), len(tokens))
    return list(tokens[:count])


def _generation_config(model: str | pathlib.Path) -> list[int]:
    """The eos ids of generation_config.json; none where it does not say."""
    try:
        found = json.loads(pathlib.Path(model, "generation_config.json").read_text()).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return []
    ids = found if isinstance(found, list) else [found]
    return [token for token in ids if isinstance(token, int) and not isinstance(token, bool)]
