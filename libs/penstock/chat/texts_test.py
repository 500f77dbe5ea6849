"""A run's texts can be read without its model, and say what its tokenizer said."""

import json
import pathlib
import random

import pytest

from penstock.chat import ChatTokenizer, Texts, keep
from penstock.testing.chat_templates import make_tokenizer
from penstock.tiny_model import make_model

# The turn ends with a token that is not special: the tokenizer alone would show it.
TAGGED = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</tool_end>{% endfor %}<|assistant|>"


@pytest.fixture(params=["tiny", "an end that is not special"])
def chat(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> ChatTokenizer:
    if request.param == "tiny":
        make_model(tmp_path / "model")
        return ChatTokenizer(tmp_path / "model")
    return ChatTokenizer(make_tokenizer(tmp_path / "model", TAGGED, eos="<|endoftext|>"))


def test_kept_texts_say_what_the_whole_tokenizer_says(chat: ChatTokenizer, tmp_path: pathlib.Path) -> None:
    assert keep(chat, tmp_path)
    kept, draw = Texts(tmp_path), random.Random(0)
    for _ in range(200):
        tokens = [draw.randrange(len(chat)) for _ in range(draw.randrange(40))]
        tokens += draw.choices(chat.stop_tokens, k=draw.randrange(3))
        assert kept.text(tokens) == chat.text(tokens)


def test_texts_that_would_be_others_are_not_kept(
    chat: ChatTokenizer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keep(chat, tmp_path)
    monkeypatch.setattr(ChatTokenizer, "text", lambda self, tokens: "cleaned up")
    assert not keep(chat, tmp_path)
    with pytest.raises(OSError):
        Texts(tmp_path)


def test_what_is_no_tokenizer_is_not_read(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError):
        Texts(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "ends.json").write_text("[1]")
    (tmp_path / "texts" / "tokenizer.json").write_text(json.dumps({"model": "none"}))
    with pytest.raises(OSError, match="not a run's tokenizer"):
        Texts(tmp_path)
