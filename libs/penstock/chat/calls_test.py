"""Calls are read in the form of the model's family, and everything else is text."""

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.chat import ChatTokenizer
from penstock.chat.calls import READERS, read
from penstock.testing.chat_templates import make_tokenizer

TURN = "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}{% CALLS %}{{ '<|im_end|>' }}"
TURN += "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
EACH = "{%- for c in m.tool_calls or [] -%}"
WRITES = {
    "hermes": EACH
    + '{{ \'<tool_call>\n{"name": "\' + c.function.name + \'", "arguments": \' }}{{ c.function.arguments | tojson }}'
    "{{ '}\n</tool_call>' }}{%- endfor -%}",
    "llama3": EACH + '{{ \'{"name": "\' + c.function.name + \'", "parameters": \' }}{{ c.function.arguments | tojson }}'
    "{{ '}' }}{%- endfor -%}",
    "mistral": "{%- if m.tool_calls -%}{{ '[TOOL_CALLS][' }}"
    + EACH
    + "{{ '{\"name\": \"' + c.function.name + '\", \"arguments\": ' }}{{ c.function.arguments | tojson }}{{ '}' }}"
    "{%- endfor -%}{{ ']' }}{%- endif -%}",
    "others": EACH + "{{ '<call ' + c.function.name + '>' }}{{ c.function.arguments | tojson }}{%- endfor -%}",
}
DRAWN = {
    "hermes": 'I add. <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>',
    "llama3": '<|python_tag|>{"name": "add", "parameters": {"a": 1}}; {"name": "add", "parameters": {"a": 1}}',
    "mistral": 'I add.[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]',
}


def chat(folder: pathlib.Path, form: str) -> ChatTokenizer:
    return ChatTokenizer(make_tokenizer(folder, TURN.replace("{% CALLS %}", WRITES[form])))


@pytest.mark.parametrize("form", WRITES)
def test_the_form_is_seen_from_what_the_template_writes(tmp_path: pathlib.Path, form: str) -> None:
    assert chat(tmp_path, form).call_form == (form if form in READERS else None)


@pytest.mark.parametrize("form", DRAWN)
def test_calls_are_read_in_their_form_alone(form: str) -> None:
    found = read(form, DRAWN[form])
    assert found is not None
    before, calls = found
    assert before == ("" if form == "llama3" else "I add.")
    assert {(c.name, c.arguments_json) for c in calls} == {("add", '{"a": 1}')}
    assert len({c.id for c in calls}) == len(calls) == (2 if form == "llama3" else 1)
    assert all(read(other, DRAWN[form]) is None for other in READERS if other != form)


def test_newer_mistrals_write_the_name_before_the_arguments() -> None:
    found = read("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]sub.two[CALL_ID]abc123[ARGS]{"b": []}')
    assert found is not None
    assert [(c.name, json.loads(c.arguments_json)) for c in found[1]] == [("add", {"a": 1}), ("sub.two", {"b": []})]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", "<tool_call>{</tool_call>"),
        ("hermes", '<tool_call>{"name": 3}</tool_call>'),
        ("llama3", 'first {"name": "add", "parameters": {}}'),
        ("llama3", '{"name": "add", "parameters": [1]}'),
        ("llama3", "[" * 100_000),
        ("llama3", "3"),
        ("mistral", "[TOOL_CALLS]"),
        ("mistral", "[TOOL_CALLS] []"),
        ("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]'),
        ("mistral", '[TOOL_CALLS] [{"name": "", "arguments": {}}]'),
    ],
)
def test_what_cannot_be_read_is_text(form: str, text: str) -> None:
    assert read(form, text) is None


@given(st.sampled_from(list(READERS)), st.text() | st.sampled_from(list(DRAWN.values())), st.integers(0, 90), st.text())
def test_nothing_that_a_model_draws_raises(form: str, text: str, at: int, put: str) -> None:
    read(form, text[:at] + put + text[at:])


def test_a_turn_says_its_calls_as_objects_where_its_form_is_read(tmp_path: pathlib.Path) -> None:
    mistral = chat(tmp_path, "mistral")
    tokens = mistral._tokenizer.encode(DRAWN["mistral"], add_special_tokens=False)
    told = mistral.said(tokens, calls="auto")
    assert (told.content, [c.name for c in told.tool_calls]) == ("I add.", ["add"])
    as_text = mistral.said(tokens, calls="text")
    assert not as_text.tool_calls and '"name": "add"' in as_text.content
    assert not mistral.said(mistral._tokenizer.encode("7"), calls="auto").tool_calls
