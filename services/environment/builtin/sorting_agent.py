"""`sorting_agent`: has the characters of its task sorted, checks them, and asks once more. The smallest agent that RL
improves; any other could stand in its place.

    user  cab  ->  model  acb        one character stands right
    user  1    ->  model  abc

The reward is that of `sort_characters`, of the last answer.
"""

from __future__ import annotations

from typing import Any

from penstock.sdk.agents import Endpoint, Task, agent
from penstock.sdk.samples import Scored


@agent(client="endpoint")
async def sorting_agent(task: Task, endpoint: Endpoint) -> Scored:
    """Are the characters of the prompt sorted, with one try more? 1 or 0."""
    prompt = str(task.row.get("prompt") or task.prompt)
    wanted = "".join(sorted(prompt))
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    said = str((await endpoint.chat(messages))["content"])
    first = said
    if said != wanted:
        right = sum(a == b for a, b in zip(said, wanted, strict=False))
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": f"{right}"}]
        said = str((await endpoint.chat(messages))["content"])
    return Scored(float(said == wanted), {"first": float(first == wanted)}, answer=said)
