"""A chat template as text: messages in, one rendering out, and where in it a turn lies.

What is drawn is never rendered again, so the template is only ever asked for what stands around a turn. That is cut out
of *one* rendering, behind a text that stands in for the turn (`TURN`): templates that write earlier turns differently
once later ones follow (Qwen3 drops their thinking) are no obstacle, since the turn itself is not looked at.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from penstock.chat.words import Words
from penstock.common.v1.common_pb2 import Message, ToolCall

TURN = "penstockstandsinforthisturn"
"""Stands in for a drawn turn: letters that no template trims, splits or looks for."""
LEAD, TRAIL = TURN + "a", TURN + "z"
"""Stand in for the white space around what a turn says, which is no template's to trim."""
OPENED = ("<think>\n\n</think>\n\n", "<think>\n", "<think>")
"""What generation prompts open or close beyond the header of a turn."""
THINK = "<think>"
THOUGHT = "\n</think>\n\n"
"""Between thinking and answer where the generation prompt has opened the thinking."""


class TemplateError(ValueError):
    """The model's chat template cannot be used as the run needs it."""


@dataclass(frozen=True)
class Form:
    """How templates are given a call: its arguments as JSON text or as an object, in a message whose content is null or
    empty. Most take objects; DeepSeek's wants text, and asks whether the content is null."""

    as_text: bool
    null: bool


FORMS = tuple(Form(as_text, null) for as_text in (False, True) for null in (False, True))
AS_GIVEN = FORMS[:2]


class Template:
    """One model's template. thinking: said to the template where it is not None (`enable_thinking`). parts: whether
    messages are lists of parts, as templates of models that also see want them."""

    def __init__(self, tokenizer: Any, words: Words, thinking: bool | None, parts: bool = False) -> None:
        self._tokenizer, self._words, self._parts = tokenizer, words, parts
        self._thinking = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
        self._thinks = thinking is not False

    def render(self, messages: Sequence[Message], *, generate: bool, tools: Sequence[Any] = ()) -> str:
        """The text of a conversation, control tokens in messages marked; with `generate`, up to where the assistant's
        next turn begins. Raises TemplateError for messages that the template refuses."""
        forms = self._forms if any(m.tool_calls for m in messages) else AS_GIVEN
        return self._applied(messages, generate, tools, forms)

    @functools.cached_property
    def _forms(self) -> tuple[Form, ...]:
        """The forms in which the template says a call and what it is called with."""
        working = []
        for form in FORMS:
            call = ToolCall(id="call00001", name="f" + TURN, arguments_json=json.dumps({"a": TURN[::-1]}))
            asked = [Message(role="user", content="0"), Message(role="assistant", tool_calls=[call])]
            asked[1].null_content = form.null
            try:
                text = self._applied(asked, False, [], (form,))
            except TemplateError:
                continue
            twice = json.dumps(call.arguments_json)[1:-1] in text  # JSON text as a JSON string
            if call.name in text and TURN[::-1] in text and not twice and "None" not in text:
                working.append(form)
        # One conversation has arguments of one kind.
        return tuple(f for f in working if f.as_text == working[0].as_text) or AS_GIVEN

    def _applied(self, messages: Sequence[Message], generate: bool, tools: Sequence[Any], forms: Sequence[Form]) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template  # slow to import

        try:
            given = self._words.marked(list(tools)) or None
            # Not apply_chat_template: that one drops what is null, and DeepSeek's template asks for it.
            rendered, _ = render_jinja_template(
                conversations=[[self._plain(m, forms) for m in messages]],
                tools=given,
                chat_template=self._tokenizer.get_chat_template(tools=given),
                add_generation_prompt=generate,
                **self._tokenizer.special_tokens_map,
                **self._thinking,
            )
        except jinja2.TemplateError as error:  # roles out of turn, say
            raise TemplateError(f"the chat template refuses the conversation: {error}") from error
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            # The template is a program of the model's authors, and the row is its input: this one breaks it.
            raise TemplateError(f"the chat template breaks on it: {type(error).__name__}: {error}") from error
        text: str = rendered[0]
        return text

    def behind(self, history: Sequence[Message], following: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """What the template writes behind a turn that answers `history`, up to the next turn of the assistant."""
        turn = Message(role="assistant", content=TURN)
        text = self.render([*history, turn, *following], generate=True, tools=tools)
        _, found, rest = text.rpartition(TURN)
        if not found:
            raise TemplateError("the chat template leaves out earlier turns of the assistant")
        return rest

    def drawn(self, history: Sequence[Message], turn: Message, closing: str, tools: Sequence[Any] = ()) -> str:
        """What a model would have to draw in the context of `history` to say `turn`, up to where the turn ends.

        closing: the text of the control tokens that the template writes behind a turn. The white space around what is
        said is drawn like the rest, though many templates trim it away where they write earlier turns. Raises
        TemplateError also where the template leaves out the turn's calls.
        """
        if not self._thinks and turn.reasoning_content:
            turn = _with(turn, reasoning_content="")
        text = self._drawn(history, turn, closing, tools)
        for lead, held, trail in _held(turn):
            kept = self._drawn(history, held, closing, tools)
            if kept.count(LEAD) == bool(lead) and kept.count(TRAIL) == bool(trail):  # else the content is taken apart
                text = kept.replace(LEAD, lead).replace(TRAIL, trail)
        for call in turn.tool_calls:
            if self._words.marked(call.name) not in text:
                raise TemplateError(f"the chat template leaves out the call of {call.name!r}")
        return text

    def _drawn(self, history: Sequence[Message], turn: Message, closing: str, tools: Sequence[Any]) -> str:
        before = self.render(history, generate=True, tools=tools)
        whole = self.render([*history, turn], generate=False, tools=tools)
        if closing and closing in whole[_common(before, whole) :]:
            whole = whole[: whole.rfind(closing) + len(closing)]
        else:
            whole = whole.rstrip()
        if whole.startswith(before):
            return whole[len(before) :]
        for opened in OPENED:
            header = before.removesuffix(opened)
            if before.endswith(opened) and whole.startswith(header):
                body = whole[len(header) :]
                if "</think>" in opened:
                    return body  # the prompt says that there is no thinking, and the template writes none
                if body.startswith(THINK):
                    return body.removeprefix(THINK)  # thinking that is over at once, written in another way
                return self._words.marked(turn.reasoning_content).strip("\n") + THOUGHT + body
        raise TemplateError("the chat template begins the assistant's turn otherwise than its generation prompt does")

    def _plain(self, message: Message, forms: Sequence[Form]) -> dict[str, Any]:
        """A message as templates have it: absent fields absent, calls in one of the forms."""
        marked = self._words.marked
        nulls = {form.null for form in forms}
        null = message.null_content if message.null_content in nulls else not message.null_content
        null = null and bool(message.tool_calls) and not message.content  # a message that says nothing at all is empty
        content: Any = marked(message.content)
        if self._parts:
            content = [{"type": "text", "text": content}]
        plain: dict[str, Any] = {
            "role": message.role,
            "content": None if null else content,
        }
        if message.reasoning_content:
            plain["reasoning_content"] = marked(message.reasoning_content)
        for key in ("name", "tool_call_id"):
            if value := getattr(message, key):
                plain[key] = marked(value)
        if message.tool_calls:
            plain["tool_calls"] = [
                {
                    "id": c.id,
                    "type": "function",
                    "function": {
                        "name": marked(c.name),
                        "arguments": marked(c.arguments_json if forms[0].as_text else _object(c)),
                    },
                }
                for c in message.tool_calls
            ]
        return plain


def _object(call: Any) -> Mapping[str, Any]:
    """A call's arguments. Raises TemplateError for what is no JSON object."""
    try:
        arguments = json.loads(call.arguments_json or "{}")
    except (ValueError, RecursionError) as error:
        raise TemplateError(f"the arguments of a call of {call.name!r} are no JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise TemplateError(f"the arguments of a call of {call.name!r} must be an object, not {arguments!r:.80}")
    return arguments


def _held(turn: Message) -> Iterator[tuple[str, Message, str]]:
    """The white space around what the turn says, with the turn that has letters in its places; nothing if there is
    none."""
    said = turn.content
    core = said.strip()
    lead, _, trail = said.partition(core) if core else (said, "", "")
    if lead or trail:
        yield lead, _with(turn, content=(LEAD if lead else "") + core + (TRAIL if trail else "")), trail


def _with(message: Message, **fields: Any) -> Message:
    """A copy with other fields."""
    changed = Message()
    changed.CopyFrom(message)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _common(a: str, b: str) -> int:
    """How many characters both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
