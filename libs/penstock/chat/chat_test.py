"""Turn by turn, the tokens are those of the whole conversation rendered at once; masks cover the assistant alone."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.chat import ChatTokenizer, TemplateError
from penstock.common.v1.common_pb2 import Message
from penstock.tiny_model import make_model

QWEN = (
    "{%- for m in messages -%}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' + '\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def m(role: str, content: str) -> Message:
    return Message(role=role, content=content)


@pytest.fixture(scope="module", params=["tiny", "newline after the stop token"])
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatTokenizer]:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    if request.param != "tiny":
        (folder / "chat_template.jinja").write_text(QWEN)
    yield ChatTokenizer(folder)


def test_turn_by_turn_equals_the_whole(chat: ChatTokenizer) -> None:
    whole = chat.render([m("user", "ab"), m("assistant", "cd"), m("user", "ef")])
    first = chat.render([m("user", "ab")])
    drawn = [*chat.render([m("user", "ab"), m("assistant", "cd")], generate=False)[len(first) :]]
    drawn = drawn[: drawn.index(chat.stop_token) + 1]
    assert first + drawn + chat.after_turn([m("user", "ef")]) == whole


def test_a_turn_without_its_stop_token_is_closed_by_the_observation(chat: ChatTokenizer) -> None:
    whole = chat.render([m("user", "ab"), m("assistant", "cd"), m("user", "ef")])
    first = chat.render([m("user", "ab")])
    drawn = whole[len(first) : len(first) + 2]
    assert chat.text(drawn) == "cd"
    assert first + drawn + chat.after_turn([m("user", "ef")], last=drawn[-1]) == whole


def test_model_tokens_are_kept_even_if_text_would_tokenise_otherwise(chat: ChatTokenizer) -> None:
    odd = [63, 62, chat.stop_token]  # a header in the middle of a turn, which no text gives
    tokens = chat.render([m("user", "ab")]) + odd + chat.after_turn([m("user", "c")])
    assert tokens[len(chat.render([m("user", "ab")])) :][:3] == odd


def test_demonstration_trains_the_assistant_alone(chat: ChatTokenizer) -> None:
    tokens, mask = chat.demonstration([m("user", "ba"), m("assistant", "ab"), m("user", "dc"), m("assistant", "cd")])
    trained = [t for t, on in zip(tokens, mask, strict=True) if on]
    assert chat.text(trained) == "abcd"
    assert trained.count(chat.stop_token) == 2
    assert mask[-1] == 1


TALK = [m("system", "s"), m("user", "ba"), m("assistant", "ab"), m("tool", "t"), m("user", "dc"), m("assistant", "cd")]


@pytest.mark.parametrize(
    ("roles", "text"),
    [
        (["assistant"], "abcd"),
        (["assistant", "tool"], "abtcd"),
        (["user"], "badc"),
        (["system"], "s"),
        (["all"], None),
    ],
)
def test_roles_choose_what_is_trained(chat: ChatTokenizer, roles: list[str], text: str | None) -> None:
    tokens, mask = chat.demonstration(TALK, roles=roles)
    whole = chat.render(TALK, generate=False)
    assert tokens == whole[: len(tokens)] and mask[0] == 0 and mask[-1] == 1
    if text is None:
        assert tokens == whole and sum(mask) == len(tokens) - 1
    else:
        assert chat.text([t for t, on in zip(tokens, mask, strict=True) if on]).replace("\n", "") == text


def test_a_turn_that_nobody_draws_is_trained_header_and_all(chat: ChatTokenizer) -> None:
    tokens, mask = chat.demonstration(TALK, roles=["tool"])
    start, end = (len(chat.render(TALK[:i], generate=False)) for i in (3, 4))
    assert [i for i, on in enumerate(mask) if on] == list(range(start, end))


def test_the_context_is_not_trained_whoever_wrote_it(chat: ChatTokenizer) -> None:
    tokens, mask = chat.demonstration(TALK, context=4, roles=["assistant", "user"])
    assert chat.text([t for t, on in zip(tokens, mask, strict=True) if on]).replace("\n", "") == "dccd"


def test_a_demonstration_without_assistant_is_refused(chat: ChatTokenizer) -> None:
    with pytest.raises(TemplateError, match="assistant"):
        chat.demonstration([m("user", "ba"), m("user", "x")])


def test_a_directory_without_tokenizer_is_refused(tmp_path: pathlib.Path) -> None:
    make_model(tmp_path)
    for path in tmp_path.glob("token*"):
        path.unlink()
    with pytest.raises(OSError, match="there is no tokenizer in it"):
        ChatTokenizer(tmp_path)


def test_a_directory_without_template_is_refused(tmp_path: pathlib.Path) -> None:
    make_model(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TemplateError, match="no chat template"):
        ChatTokenizer(tmp_path)


def test_a_conversation_that_the_template_refuses_is_named(tmp_path: pathlib.Path) -> None:
    make_model(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(TemplateError, match="roles must alternate"):
        ChatTokenizer(tmp_path).render([m("user", "a"), m("user", "b")])


def test_the_prompt_of_a_group_is_rendered_once(chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what one of its samples does to the tokens is not seen by the next."""
    asked, render = list[bool](), chat._template.render

    def counted(*args: Any, **named: Any) -> str:
        asked.append(True)
        return render(*args, **named)

    monkeypatch.setattr(chat._template, "render", counted)
    question = [Message(role="user", content="what was never asked before")]
    first = chat.render(question)
    first.append(-1)
    assert [chat.render([Message(role="user", content=question[0].content)]) for _ in range(7)] == [first[:-1]] * 7
    assert len(asked) == 1
    chat.render(question, generate=False)
    chat.render(question, tools=[{"type": "function", "function": {"name": "f"}}])
    assert len(asked) == 3


def test_a_template_that_says_the_date_is_asked_each_time(tmp_path: pathlib.Path) -> None:
    make_model(tmp_path)
    path = tmp_path / "chat_template.jinja"
    template = path.read_text() if path.is_file() else ChatTokenizer(tmp_path)._tokenizer.chat_template
    path.write_text("{% set now = strftime_now('%f') %}" + template)
    chat = ChatTokenizer(tmp_path)
    assert chat.render([m("user", "a")]) == chat.render([m("user", "a")])
    assert chat._kept.cache_info().hits == 0
