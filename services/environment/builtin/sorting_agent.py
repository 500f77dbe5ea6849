"""`sorting_agent`: an agent with a tool that has the characters of its task sorted. The smallest one that RL improves.

It knows nothing of training: it calls a model by OpenAI's API, lets it check its work with a tool, and asks once more
where the check failed. Any agent could stand in its place.

    user       sort cab          ->  model      abc
    tool-like  wrong, 2 in place ->  model      once more

The reward is that of `sort_characters`, of the last answer.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

from penstock.sdk.agents import Endpoint, Task, agent
from penstock.sdk.samples import Scored


@agent(client="endpoint")
async def sorting_agent(task: Task, endpoint: Endpoint) -> Scored:
    """Are the characters of the prompt sorted, with one try more? 1 or 0."""
    prompt = str(task.row.get("prompt") or task.prompt)
    wanted = "".join(sorted(prompt))
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    said = await asyncio.to_thread(_asked, endpoint, messages)
    first = said
    if said != wanted:
        right = sum(a == b for a, b in zip(said, wanted, strict=False))
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": f"{right}"}]
        said = await asyncio.to_thread(_asked, endpoint, messages)
    return Scored(float(said == wanted), {"first": float(first == wanted)}, answer=said)


def _asked(endpoint: Endpoint, messages: list[dict[str, Any]]) -> str:
    """What the model answers. Raises OSError."""
    body = json.dumps({"model": "policy", "messages": messages}).encode()
    headers = {"authorization": f"Bearer {endpoint.key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{endpoint.base_url}/chat/completions", body, headers)  # noqa: S310 - the run's own
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return str(json.load(answer)["choices"][0]["message"]["content"])
