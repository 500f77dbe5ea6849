"""Two-digit sums in the forms that people bring: questions with answers, conversations, pairs, questions for a tool."""

import json
import pathlib
import random
from collections.abc import Iterator
from typing import Any

QUESTION = "What is {a} + {b}? Answer with the number only."


def write(folder: pathlib.Path, train: int = 512, held_out: int = 96) -> None:
    """`questions`, `conversations`, `pairs` and `tool` as `<name>.jsonl` and `<name>-eval.jsonl`; no sum is in both."""
    sums = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    random.Random(0).shuffle(sums)
    folder.mkdir(parents=True, exist_ok=True)
    for part, chosen in (("", sums[:train]), ("-eval", sums[train : train + held_out])):
        for name, rows in _forms(chosen).items():
            (folder / f"{name}{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _forms(sums: list[tuple[int, int]]) -> dict[str, Iterator[dict[str, Any]]]:
    def user(a: int, b: int) -> dict[str, str]:
        return {"role": "user", "content": QUESTION.format(a=a, b=b)}

    def said(text: object) -> dict[str, str]:
        return {"role": "assistant", "content": str(text)}

    return {
        "questions": ({"messages": [user(a, b)], "answer": str(a + b)} for a, b in sums),
        "conversations": ({"messages": [user(a, b), said(a + b)]} for a, b in sums),
        "pairs": (
            {"prompt": [user(a, b)], "chosen": [said(a + b)], "rejected": [said(f"The answer is {a + b + 10}.")]}
            for a, b in sums
        ),
        "tool": ({"question": f"What is {a} * {b}?", "answer": str(a * b)} for a, b in sums),
    }
