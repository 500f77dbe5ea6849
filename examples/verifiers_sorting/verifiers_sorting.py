"""An environment package as people write them for verifiers: nothing in it knows of Penstock.

The model is given characters and answers with them sorted; where it is wrong it is told how many stand right, and may
answer once more. The rubric rewards the last answer, and says of the first whether it was right.
"""

import random
import string
from typing import Any

import verifiers as vf
from datasets import Dataset

ROWS = 2000


def _rows(seed: int, count: int, longest: int) -> Dataset:
    chance = random.Random(seed)
    words = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, longest))) for _ in range(count)]
    return Dataset.from_list([{"question": word, "answer": "".join(sorted(word))} for word in words])


def _said(messages: Any, which: int) -> str:
    """The text of one of the model's messages."""
    said = [m for m in messages if (m["role"] if isinstance(m, dict) else m.role) == "assistant"]
    return str((said[which]["content"] if isinstance(said[which], dict) else said[which].content) or "") if said else ""


def sorted_in_the_end(completion: Any, answer: str) -> float:
    return float(_said(completion, -1) == answer)


def sorted_at_once(completion: Any, answer: str) -> float:
    return float(_said(completion, 0) == answer)


class Sorting(vf.MultiTurnEnv):
    """Checks an answer, and asks once more."""

    @vf.stop
    async def right(self, state: vf.State) -> bool:
        said = [step["completion"] for step in state["trajectory"]]
        return bool(said) and _said(said[-1], -1) == state["answer"]

    async def env_response(self, messages: Any, state: vf.State, **_: Any) -> Any:
        right = sum(a == b for a, b in zip(_said(messages, -1), state["answer"], strict=False))
        return [{"role": "user", "content": str(right)}]


def load_environment(longest: int = 6, tries: int = 2) -> vf.Environment:
    """longest: characters to sort; tries: answers that the model may give."""
    rubric = vf.Rubric(funcs=[sorted_in_the_end, sorted_at_once], weights=[1.0, 0.0])
    return Sorting(
        dataset=lambda: _rows(0, ROWS, longest),
        eval_dataset=lambda: _rows(1, 200, longest),
        rubric=rubric,
        max_turns=tries,
    )
