"""What the warm-ups of the proofs imitate: an agent's own conversations with a policy that knows the answers.

    ./bazelw run //tests/agents:demonstrations -- smolagents FOLDER     writes sft.jsonl, train.jsonl, eval.jsonl

The same agent is run that is trained afterwards, against a server that answers as a good policy would; what it was
asked and said becomes a demonstration, its text as the policy draws it. Some are wrong: there is something to learn.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import random
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from penstock.sdk.agents import Endpoint, Task

QUESTIONS = {"sdk": 900, "smolagents": 3000, "reasoning_gym": 3600}
"""That are demonstrated. Conversations of smolagents are long, with noise in the middle of them to read over."""
TASKS, MEASURED, WRONG = 900, 128, 0.35
NAME = "reasoning_gym:chain_sum"
SETTINGS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def question(chance: random.Random) -> dict[str, str]:
    a, b = chance.randint(2, 99), chance.randint(2, 99)
    return {"question": f"{a}*{b}", "answer": str(a * b)}


def call(name: str, **arguments: str) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


class Teacher:
    """Answers the calls of a question, and keeps what was asked and said. ends: whether by a tool of its own."""

    def __init__(self, ends: bool) -> None:
        self.ends = ends

    def begin(self, row: Mapping[str, str]) -> None:
        self.row = row
        self.asked: list[list[dict[str, str]]] = []
        self.said: list[str] = []

    async def chat(self, request: Request) -> JSONResponse:
        body = await request.json()
        answers = len(self.said)
        first = call("calculate", expression=self.row["question"])
        last = call("final_answer", answer=self.row["answer"]) if self.ends else self.row["answer"]
        text = first if answers == 0 else last
        given = [{"role": m["role"], "content": _text(m.get("content"))} for m in body["messages"]]
        own = iter(self.said)  # an own turn as it was drawn
        self.asked.append([{**m, "content": next(own)} if m["role"] == "assistant" else m for m in given])
        self.said.append(text)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if text.startswith("<tool_call>"):
            made = json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
            function = {"name": made["name"], "arguments": json.dumps(made["arguments"])}
            message |= {
                "content": None,
                "tool_calls": [{"id": uuid.uuid4().hex[:9], "type": "function", "function": function}],
            }
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        about = {"id": "c", "object": "chat.completion", "created": 0, "model": "policy"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return JSONResponse({**about, "choices": [choice], "usage": usage})


def _text(content: Any) -> str:
    return content or "" if not isinstance(content, list) else "".join(part["text"] for part in content)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """The URL of an application for the block."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


async def of_agent(name: str) -> list[dict[str, Any]]:
    """Demonstrations of an agent of examples/agents_of_others."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples" / "agents_of_others"))
    import agents_of_others  # type: ignore[import-not-found]

    player = getattr(agents_of_others, f"{name}_calculator")
    chance, found = random.Random(1), list[dict[str, Any]]()
    rows = [question(chance) for _ in range(QUESTIONS[name])]
    teacher = Teacher(ends=name == "smolagents")
    async with serving(Starlette(routes=[Route("/v1/chat/completions", teacher.chat, methods=["POST"])])) as url:
        for row in rows:
            teacher.begin(row)
            result = await player.run(Task(row), Endpoint(f"{url}/v1", "key"), 60)
            assert result.value == 1.0, result
            found += [
                {"prompt": asked, "target": _worse(said, chance)}
                for asked, said in zip(teacher.asked, teacher.said, strict=True)
            ]
    return found


def _worse(said: str, chance: random.Random) -> str:
    """The text, now and then with a digit of it changed."""
    digits = [i for i, each in enumerate(said) if each.isdigit()]
    if chance.random() >= WRONG or not digits:
        return said
    i = chance.choice(digits)
    return said[:i] + chance.choice("0123456789") + said[i + 1 :]


def of_reasoning_gym() -> list[dict[str, Any]]:
    """Questions of the data set with their answers, other ones than are trained on."""
    from services.environment_adapters.reasoning_gym import reasoning_gym

    chance = random.Random(1)
    tasks = reasoning_gym.create_dataset("chain_sum", seed=1 << 20, size=QUESTIONS["reasoning_gym"], **SETTINGS)
    return [{"prompt": each["question"], "target": _worse(each["answer"], chance)} for each in tasks]


def main() -> None:
    name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(2)
    rows = [question(chance) for _ in range(TASKS + MEASURED)]
    shown = of_reasoning_gym() if name == "reasoning_gym" else asyncio.run(of_agent(name))
    chance.shuffle(shown)
    for file, lines in (("sft", shown), ("eval", rows[:MEASURED]), ("train", rows[MEASURED:])):
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
