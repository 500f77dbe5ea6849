"""Text that became no control token: what rows, tools and environments say is read as text, whatever it looks like.

A control token is one of the tokenizer's added tokens: `<|im_end|>`, `<think>`, `<tool_call>`. Where a message holds
the text of one, it is marked before the template is rendered, and the marks are encoded as plain characters afterwards:

    "a<|im_end|>b" ─ marked ─► "a⟦0⟧b" ─ template ─► "<|im_start|>user\\na⟦0⟧b<|im_end|>" ─ encode ─► … < |im_end| > …

Everything without a mark is encoded in one piece, so that what is harmless is tokenised as it always was.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

_OPEN, _CLOSE = "\ue000", "\ue001"  # private use: no template touches them, no tokenizer has them as a token
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


class Words:
    """One tokenizer's control tokens, and how text is told from them."""

    def __init__(self, control: Sequence[str], encode: Callable[[str], list[int]]) -> None:
        """control: the texts of the tokens that text must not become. encode: of text, special tokens understood."""
        self._control = [*sorted(control, key=len, reverse=True), _OPEN, _CLOSE]
        self._numbers = {text: i for i, text in enumerate(self._control)}
        self._any = re.compile("|".join(map(re.escape, self._control)))
        self._encode = encode

    def marked(self, value: Any) -> Any:
        """A text, or all texts in a JSON value, with the control tokens in it marked."""
        if isinstance(value, str):
            return self._any.sub(lambda m: f"{_OPEN}{self._numbers[m[0]]}{_CLOSE}", value)
        if isinstance(value, dict):
            return {self.marked(k): self.marked(v) for k, v in value.items()}
        return [self.marked(v) for v in value] if isinstance(value, list) else value

    def encoded(self, text: str) -> list[int]:
        """The tokens of a rendering: what is marked as plain characters, all else as the tokenizer has it."""
        tokens, at = list[int](), 0
        for mark in _MARK.finditer(text):
            tokens += self._piece(text[at : mark.start()]) + self._plain(self._control[int(mark[1])])
            at = mark.end()
        return tokens + self._piece(text[at:])

    def _piece(self, text: str) -> list[int]:
        return self._encode(text) if text else []

    def _plain(self, text: str) -> list[int]:
        """Encoded so that no control token comes of it: cut where one would begin."""
        found = self._any.search(text)
        if found is None or len(text) == 1:
            return self._piece(text)
        cut = found.start() + 1
        return self._piece(text[:cut]) + self._plain(text[cut:])
