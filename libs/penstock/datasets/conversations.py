"""Messages as chat data sets write them: role and content, or ShareGPT's from and value."""

import json
from typing import Any

from penstock.common.v1.common_pb2 import Message

ROLES = {"human": "user", "gpt": "assistant", "function": "tool", "observation": "tool"}
KNOWN = ("system", "user", "assistant", "tool")


def message_of(raw: Any) -> Message:
    """Tool calls have their arguments as JSON text, whichever way they were given; what is absent stays absent.

    Raises KeyError, TypeError, ValueError or AttributeError for what is no message.
    """
    role, says = ("from", "value") if "from" in raw and "role" not in raw else ("role", "content")
    content = raw.get(says) if raw.get("tool_calls") else raw[says]
    named = ROLES.get(raw[role], raw[role])
    if named not in KNOWN:
        raise ValueError(f"role {named!r:.40} is none of {', '.join(KNOWN)}")
    message = Message(role=named, content=content or "", null_content=content is None)
    for key in ("reasoning_content", "tool_call_id", "name"):
        setattr(message, key, raw.get(key) or "")
    for call in raw.get("tool_calls") or ():
        function = call.get("function") or call
        given = function.get("arguments")
        arguments = given if isinstance(given, str) else json.dumps(given or {})
        message.tool_calls.add(id=call.get("id") or "", name=function["name"], arguments_json=arguments)
    return message
