"""`/v1/completions`: a text that the model goes on with. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.chat import ChatTokenizer
from services.gateway import chat_api, sampling
from services.gateway.errors import CallRefused, Unsupported
from services.gateway.session import Answer, Call


def call_of(body: Mapping[str, Any]) -> Call:
    """What a request asks for. Raises CallRefused."""
    sampling.check_single(body)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise CallRefused("prompt must be one text of at least one character", "prompt")
    if body.get("stream"):
        raise Unsupported("stream: texts are given whole; chat completions are streamed", "stream")
    text = prompt.encode(errors="replace").decode()
    return Call(text, (), sampling.most_tokens(body), sampling.stops(body))


def completion(answer: Answer, body: Mapping[str, Any], model: str, chat: ChatTokenizer) -> dict[str, Any]:
    """The answer as a `text_completion`."""
    choice: dict[str, Any] = {
        "index": 0,
        "text": answer.message.content,
        "finish_reason": answer.finish,
        "logprobs": None,
    }
    if body.get("logprobs"):
        choice["logprobs"] = {
            "tokens": [chat.named(token) for token in answer.tokens],
            "token_logprobs": list(answer.logprobs),
            "top_logprobs": None,
            "text_offset": [],
        }
    return {
        **chat_api.head("text_completion", "cmpl", model, answer.id),
        "choices": [choice],
        "usage": chat_api.usage(answer),
    }
