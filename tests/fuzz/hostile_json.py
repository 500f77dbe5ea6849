"""Bodies of requests that are almost right: JSON changed in a few places, or bytes that are none. Pure, by a seed."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 7, 2**31, 2**63, -(2**70), 0.5, -1e-9, 1e308, "", "x", "0", "\ud800", "\u0000"),
    *("x" * 3000, "\u2028é漢🙂", "<|end|>", "<tool_call>{", [], {}, [[]], [{}], [None], {"": ""}, {"type": "text"}),
    *(
        {"role": "tool"},
        {"role": "system", "content": [{"type": "text"}]},
        {"type": "function_call"},
        "auto",
        "required",
    ),
    {"type": "function", "function": {"name": "", "parameters": {"type": 1}}},
    {"a": {"b": [{"c": [1, {"d": None}]}]}},
)
FIELDS = (
    *("model", "messages", "prompt", "input", "instructions", "tools", "tool_choice", "stop", "stream", "n", "user"),
    *("stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "top_k"),
    *("logprobs", "top_logprobs", "logit_bias", "response_format", "text", "seed", "metadata", "echo", "best_of"),
    *("role", "content", "tool_calls", "tool_call_id", "name", "type", "call_id", "arguments", "output", "function"),
)
BYTES = (
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"\xff\xfe{}",
    b"NaN",
    b'{"messages": NaN}',
    b'{"max_tokens": 1e999}',
    b"[" * 50_000,
    b'{"messages":' * 5_000,
    b'{"n": ' + b"9" * 5_000 + b"}",
    b'{"input": "\\ud800", "messages": [{"role": "user", "content": "\\udc00"}]}',
)


def body(chance: random.Random, good: Any) -> bytes:
    """The bytes of a request that is `good` but for a few places."""
    kind = chance.random()
    if kind < 0.05:
        return chance.choice(BYTES)
    changed = copy.deepcopy(good)
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        _change(chance, changed)
    whole = bytearray(json.dumps(changed).encode())
    if kind < 0.1:
        for _ in range(chance.randint(1, 4)):
            whole[chance.randrange(len(whole))] = chance.randrange(256)
    elif kind < 0.13:
        del whole[chance.randrange(len(whole)) :]
    return bytes(whole)


def _change(chance: random.Random, value: Any) -> None:
    """Another value, one less or one more, somewhere in an object or a list."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(value[key], dict | list) and chance.random() < 0.7:
            value = value[key]
            continue
        kind = chance.random()
        if kind < 0.15:
            del value[key]
        elif kind < 0.5 and isinstance(value, dict):
            value[chance.choice(FIELDS)] = copy.deepcopy(chance.choice(VALUES))
        elif kind < 0.6 and isinstance(value, list):
            value.insert(key, copy.deepcopy(chance.choice((*VALUES, *value))))
        else:
            value[key] = copy.deepcopy(chance.choice(VALUES))
        return
