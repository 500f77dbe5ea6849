"""Rows of a data set in a seeded order that can be entered anywhere: group k's row is a function of the seed and k."""

import functools
import json
import pathlib
import random
from collections.abc import Sequence
from typing import Any

from penstock.common.v1.common_pb2 import Message
from penstock.recipes.sections import Data
from penstock.trajectory.v1 import trajectory_pb2 as pb


class DatasetError(ValueError):
    """A data set that cannot be used. The text names the file, the line and the field."""


class Dataset:
    """The rows of a JSON Lines file. Every row is tried at once, so that a bad one stops a run before it starts."""

    def __init__(self, path: pathlib.Path, data: Data, *, shuffle: bool) -> None:
        self.path, self._data, self._shuffle = path, data, shuffle
        self.rows = _read(path)
        for row in range(len(self.rows)):
            self._prompt(row)

    @property
    def seed(self) -> int:
        """Of the order of rows."""
        return self._data.seed

    def __len__(self) -> int:
        return len(self.rows)

    def position(self, number: int) -> tuple[int, int]:
        """(pass, row) of the number-th draw. Every pass visits every row once."""
        turn, at = divmod(number, len(self.rows))
        return turn, self._order(turn)[at] if self._shuffle else at

    def task(self, row: int, environment: str, source: str = "") -> pb.Task:
        """The row as a task of an environment."""
        return pb.Task(
            id=f"{self.path.stem}/{row}",
            environment=environment,
            source=source,
            messages=self._prompt(row),
            row_json=json.dumps(self.rows[row]),
        )

    def demonstration(self, row: int) -> pb.Demonstration:
        """The row as a conversation to imitate: its `messages`, or the recipe's prompt and completion."""
        messages = self._prompt(row)
        if "messages" not in self.rows[row]:
            messages = [
                *messages,
                Message(role="assistant", content=self._fill(self._data.completion, row, "completion")),
            ]
        return pb.Demonstration(messages=messages)

    def preference(self, row: int) -> pb.PreferenceWork:
        """The row as ranked answers to a prompt.

        `chosen` and `rejected` (texts, or whole conversations that end with the answer), `answers` (texts, the best
        first), or `label` (true or false) for the recipe's completion alone.
        """
        fields = self.rows[row]
        work = pb.PreferenceWork(prompt=self._prompt(row))
        if "answers" in fields:
            texts = self._texts(row, "answers", fields["answers"])
            ranked = [(text, float(len(texts) - 1 - i)) for i, text in enumerate(texts)]
        elif "chosen" in fields and "rejected" in fields:
            ranked = [(self._last(row, key), score) for key, score in (("chosen", 1.0), ("rejected", 0.0))]
        elif "label" in fields:
            ranked = [(self._fill(self._data.completion, row, "completion"), 1.0 if fields["label"] else 0.0)]
        else:
            have = ", ".join(sorted(fields))
            raise DatasetError(
                f"{self.path}, line {row + 1}: preference data needs chosen and rejected, or answers, or label; "
                f"it has {have}"
            )
        for text, score in ranked:
            work.answers.add(message=Message(role="assistant", content=text), score=score)
        return work

    def _prompt(self, row: int) -> list[Message]:
        fields = self.rows[row]
        if "messages" in fields:
            return self._conversation(row, "messages")
        if isinstance(fields.get("prompt"), list):
            return self._conversation(row, "prompt")
        if "prompt" not in fields and isinstance(fields.get("chosen"), list):
            return self._conversation(row, "chosen")[:-1]
        messages = [Message(role="user", content=self._fill(self._data.prompt, row, "prompt"))]
        if self._data.system is not None:
            messages.insert(0, Message(role="system", content=self._data.system))
        return messages

    def _conversation(self, row: int, key: str) -> list[Message]:
        try:
            return [Message(role=m["role"], content=m["content"]) for m in self.rows[row][key]]
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"{self.path}, line {row + 1}: {key} must be a list of objects with role and content"
            ) from error

    def _last(self, row: int, key: str) -> str:
        value = self.rows[row][key]
        if isinstance(value, list):
            conversation = self._conversation(row, key)
            if not conversation or conversation[-1].role != "assistant":
                raise DatasetError(f"{self.path}, line {row + 1}: {key} must end with an assistant message")
            return conversation[-1].content
        return self._texts(row, key, [value])[0]

    def _texts(self, row: int, key: str, values: Any) -> list[str]:
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise DatasetError(f"{self.path}, line {row + 1}: {key} must be text")
        return values

    def _fill(self, template: str, row: int, key: str) -> str:
        try:
            return template.format_map(self.rows[row])
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            have = ", ".join(sorted(self.rows[row]))
            raise DatasetError(
                f"{self.path}, line {row + 1}: data.{key} {template!r} needs {error}; it has {have}"
            ) from error

    @functools.lru_cache(maxsize=2)  # noqa: B019 - one data set lives as long as its process
    def _order(self, turn: int) -> Sequence[int]:
        order = list(range(len(self.rows)))
        random.Random(f"{self._data.seed}/{turn}").shuffle(order)
        return order


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    rows = []
    try:
        with path.open() as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except ValueError as error:
                        raise DatasetError(f"{path}, line {number}: {error}") from error
                    if not isinstance(row, dict):
                        raise DatasetError(f"{path}, line {number}: must be a JSON object, is a {type(row).__name__}")
                    rows.append(row)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: {error}") from error
    if not rows:
        raise DatasetError(f"{path}: has no rows")
    return rows
