"""A model's tokenizer and chat template as an episode needs them.

An episode's tokens are:  render(prompt) + drawn + after_turn(observation) + drawn + ...
What was drawn is never decoded and encoded again, and never rendered: what is trained is what was drawn. A
demonstration is put together in the very same way, so what is trained of it is what the model would have drawn in that
context.

The token that ends a turn is the last of the model's tokens. Templates put more behind it (Qwen: a newline); that
belongs to the next context.
"""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from penstock.chat.calls import READERS, form_of, read
from penstock.chat.ends import ends_of
from penstock.chat.template import TURN, Template, TemplateError
from penstock.chat.words import Words
from penstock.common.v1.common_pb2 import Message, ToolCall

RENDERINGS = 32
"""Conversations whose tokens are kept: the samples of a group ask for the same one, one behind the other."""


class ChatTokenizer:
    """Tokens and text of one model.

    thinking: whether the template is told to let the model think (None: the template's own way).
    control_tokens: whether text in messages may become control tokens.
    Raises OSError if the directory has no tokenizer, TemplateError for a template that is missing or cannot be used.
    """

    def __init__(self, model: str | pathlib.Path, thinking: bool | None = None, control_tokens: bool = False) -> None:
        from transformers import AutoTokenizer  # slow to import: only where a tokenizer is really made
        from transformers.utils import logging

        logging.set_verbosity_error()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(model))
        if not self._tokenizer("a")["input_ids"]:  # transformers makes one without a vocabulary where it finds no files
            raise OSError(f"{model}: there is no tokenizer in it")
        if not self._tokenizer.chat_template:
            raise TemplateError(f"{model}: the tokenizer has no chat template")
        added = {str(token.content) for token in self._tokenizer.added_tokens_decoder.values()}
        self._added = frozenset(text for text in added if text.strip())
        self._words = Words([] if control_tokens else sorted(self._added), self._encode)
        parts = self._wants_parts(thinking)
        self._template = Template(self._tokenizer, self._words, thinking, parts)
        # What an assistant says in a demonstration is the model's own: its tags are the tokens that it would draw.
        special = {str(text) for text in self._tokenizer.all_special_tokens}
        own = Words([] if control_tokens else sorted(self._added & special), self._encode)
        self._said = Template(self._tokenizer, own, thinking, parts)
        self._own = own
        self._heard = set[str]()
        dated = "strftime_now" in str(self._tokenizer.chat_template)  # says another thing on another day
        self._kept = functools.lru_cache(0 if dated else RENDERINGS)(self._rendered)
        self._ends = ends_of(model, self._tokenizer, self._template, self._words)

    def _wants_parts(self, thinking: bool | None) -> bool:
        """Whether the template takes messages as lists of parts alone."""
        conversation = [Message(role="user", content="0"), Message(role="assistant", content=TURN)]
        try:
            plain = Template(self._tokenizer, self._words, thinking).render(conversation, generate=False)
            return TURN not in plain
        except TemplateError:
            return True

    def __len__(self) -> int:
        return len(self._tokenizer)

    @property
    def backend(self) -> Any | None:
        """The `tokenizers.Tokenizer` beneath; None for one that is written in Python."""
        return getattr(self._tokenizer, "backend_tokenizer", None)

    @property
    def stop_token(self) -> int:
        """What the template ends a turn with."""
        return self._ends.token

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """All tokens that end a turn."""
        return self._ends.tokens

    def named(self, token: int) -> str:
        """A token's text, for people."""
        return str(self._tokenizer.convert_ids_to_tokens(token))

    def stops(self, texts: Sequence[str]) -> tuple[list[int], list[str]]:
        """Stop texts as tokens where they are control tokens, which no text has, and as text elsewhere."""
        tokens = [self._tokenizer.convert_tokens_to_ids(text) for text in texts if text in self._added]
        return tokens, [text for text in texts if text not in self._added]

    def render(self, messages: Sequence[Message], *, generate: bool = True, tools: Sequence[Any] = ()) -> list[int]:
        """Tokens of a conversation; with `generate`, up to where the assistant's next turn begins."""
        return list(
            self._kept(tuple(m.SerializeToString(deterministic=True) for m in messages), generate, _json(tools))
        )

    def _rendered(self, messages: tuple[bytes, ...], generate: bool, tools: str) -> tuple[int, ...]:
        said = [Message.FromString(each) for each in messages]
        return tuple(self._words.encoded(self._template.render(said, generate=generate, tools=json.loads(tools))))

    def plain(self, text: str) -> list[int]:
        """Tokens of a text that is no conversation. Control tokens in it become text, as in messages."""
        return self._words.encoded(self._words.marked(text))

    def after_turn(
        self,
        messages: Sequence[Message],
        last: int | None = None,
        *,
        history: Sequence[Message] = (Message(role="user", content="0"),),
        tools: Sequence[Any] = (),
    ) -> list[int]:
        """Tokens between the end of the model's turn and its next turn: the observation.

        history: what the turn answered. last: the turn's last token. Where that ends no turn (a stop text did), the
        observation begins with what does, as the template would have it.
        """
        for role in sorted({m.role for m in messages} - self._heard):
            self._listen(role)
        tokens = self._words.encoded(self._template.behind(history, messages, tools))
        control = set(self._tokenizer.added_tokens_decoder)
        if any(token not in control for token in tokens[: self._ends.count]):
            raise TemplateError("the chat template ends a turn differently once later ones follow")
        if last is not None and last not in self._ends.tokens:
            return tokens
        if not self._ends.count and tokens[:1] == [last]:
            return tokens[1:]  # GLM: what begins the next turn is what ends this one, and was drawn
        return tokens[self._ends.count :]

    def demonstration(
        self,
        messages: Sequence[Message],
        *,
        context: int = 0,
        roles: Sequence[str] = ("assistant",),
        tools: Sequence[Any] = (),
    ) -> tuple[list[int], list[int]]:
        """Tokens [n] and mask [n] of a conversation; 1 on what is trained: every turn of the given `roles`.

        An assistant's turn is what a model draws: from behind the header to the token that ends it, which is included.
        A turn of another role is all that the template writes for it, header and all; "all" trains every token. The
        first token is never trained, since nothing predicts it, and the first `context` messages are not, whoever wrote
        them. Tokens behind the last trained one are left out.
        """
        if set(roles) == {"assistant"}:
            tokens, mask = self._as_an_episode(messages, context, tools)
        else:
            tokens, mask = self._as_one_text(messages, context, roles, tools)
        mask[:1] = [0] * len(mask[:1])
        if 1 not in mask:
            raise TemplateError(f"a demonstration needs at least one message of {', '.join(roles)}")
        last = max(i for i, m in enumerate(mask) if m)
        return tokens[: last + 1], mask[: last + 1]

    def _as_an_episode(
        self, messages: Sequence[Message], context: int, tools: Sequence[Any]
    ) -> tuple[list[int], list[int]]:
        """Turn by turn, each in the context in which the model would have drawn it."""
        tokens, mask, before = list[int](), list[int](), None
        for i, message in enumerate(messages):
            if message.role != "assistant" or i < context:
                continue
            if before is None:
                given = self.render(messages[:i], tools=tools) if i else []
            else:
                given = self.after_turn(
                    messages[before + 1 : i], last=tokens[-1], history=messages[:before], tools=tools
                )
            drawn = self._drawn(messages[:i], message, tools)
            tokens += given + drawn
            mask += [0] * len(given) + [1] * len(drawn)
            before = i
        return tokens, mask

    def _drawn(self, history: Sequence[Message], turn: Message, tools: Sequence[Any]) -> list[int]:
        text = self._said.drawn(history, turn, self._ends.closing, tools)
        tokens = self._own.encoded(text)
        return tokens if tokens and tokens[-1] in self._ends.tokens else [*tokens, self._ends.token]

    def _as_one_text(
        self, messages: Sequence[Message], context: int, roles: Sequence[str], tools: Sequence[Any]
    ) -> tuple[list[int], list[int]]:
        """In one rendering, for roles whose turns nobody draws; its beginnings must be what earlier messages give.

        Where a turn of the assistant begins the text is cut: no token reaches from what is given into what is drawn.
        """
        text = self._template.render(messages, generate=False, tools=tools)
        tokens, mask, at = list[int](), list[int](), 0
        for i, message in enumerate(messages):
            if i < context or not ("all" in roles or message.role in roles):
                continue
            drawn = "all" not in roles and message.role == "assistant"
            for end, on in zip(self._place(text, messages, i, drawn, tools), (0, 1), strict=True):
                piece = self._words.encoded(text[at:end])
                tokens, mask, at = tokens + piece, mask + [on] * len(piece), end
        return tokens, mask

    def _place(
        self, text: str, messages: Sequence[Message], i: int, drawn: bool, tools: Sequence[Any]
    ) -> tuple[int, int]:
        """Where the i-th message lies in the `text` of the conversation: what a model draws of it, or all of it."""
        before = self._template.render(messages[:i], generate=drawn, tools=tools) if i or drawn else ""
        turn = self._template.render(messages[: i + 1], generate=False, tools=tools)
        end = self._last_end(turn) if drawn else len(turn)
        if text[: len(before)] != before or text[:end] != turn[:end]:
            raise TemplateError(
                "the chat template renders earlier turns differently once later ones follow: train_on can have the "
                "assistant alone"
            )
        return len(before), end

    def _last_end(self, turn: str) -> int:
        """Behind the text of what ends the last turn."""
        ends = [text for token in self._ends.tokens if (text := self.named(token)) in self._added]
        places = [turn.rfind(text) + len(text) for text in ends if text in turn]
        if not places:
            raise TemplateError("the chat template does not end an assistant's turn")
        return max(places)

    def try_turns(self) -> None:
        """Plays what an episode of several turns needs of the template. Raises TemplateError: before a run starts, not
        at every sample."""
        self.after_turn([Message(role="user", content="0")])

    def _listen(self, role: str) -> None:
        """Whether the template says what a message of this role says between two turns."""
        question = Message(role="user", content="0")
        said = Message(role=role, content=TURN[::-1], tool_call_id="call00001", name="f")
        if TURN[::-1] not in self._template.behind([question], [said]):
            raise TemplateError(f"the chat template leaves out what a {role!r} message says between two turns")
        self._heard.add(role)

    def text(self, tokens: Sequence[int], *, control_tokens: bool = False) -> str:
        """The text of tokens, without special tokens unless they are wanted; what ends the turn is no part of it."""
        kept = list(tokens)
        while kept and kept[-1] in self._ends.tokens:
            kept.pop()
        decoded: str = self._tokenizer.decode(kept, skip_special_tokens=not control_tokens)
        return decoded

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @functools.cached_property
    def call_form(self) -> str | None:
        """The form in which the template writes tool calls (see `calls`); None for one that is not known there."""
        call = ToolCall(id="call00000", name="add", arguments_json='{"a": 1}')
        asked = [Message(role="user", content="0")]
        try:
            return form_of(self._said.drawn(asked, Message(role="assistant", tool_calls=[call]), ""), call.name)
        except TemplateError:
            return None

    def said(self, tokens: Sequence[int], *, control_tokens: bool = False, calls: str = "text") -> Message:
        """What the tokens of a turn say, as a message.

        calls: the form in which tool calls are taken out of it; `auto` for the template's own, `text` for none. Those
        of Hermes and Qwen are left in the text by `auto`: environments have always read them there.
        """
        form = self.call_form if calls == "auto" else calls
        found = None
        if form is not None and form in READERS and (form, calls) != ("hermes", "auto"):
            found = read(form, self.text(tokens, control_tokens=True))
        if found is None:
            return Message(role="assistant", content=self.text(tokens, control_tokens=control_tokens))
        return Message(role="assistant", content=found[0], tool_calls=found[1])


def _json(tools: Sequence[Any]) -> str:
    return json.dumps(list(tools)) if tools else "[]"
