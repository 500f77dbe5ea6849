"""Rows of a data set in a seeded order that can be entered anywhere: group k's row is a function of the seed and k."""

import difflib
import functools
import json
import pathlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.common.v1.common_pb2 import Message
from penstock.datasets.reading import DatasetError, read
from penstock.recipes.sections import Data
from penstock.trajectory.v1 import trajectory_pb2 as pb


class Dataset:
    """The rows of a data set (see `reading`). Every row is tried at once: a bad one stops a run before it starts.

    prompts: whether a row says what the model is asked; a multi-turn environment does that itself. limit: rows taken,
    from the first.
    """

    def __init__(
        self, path: pathlib.Path, data: Data, *, shuffle: bool, prompts: bool = True, limit: int | None = None
    ) -> None:
        self.path, self._data, self._shuffle, self._prompts = path, data, shuffle, prompts
        found = read(path)
        self.rows, self._unit = found.rows[:limit], found.unit
        for row in range(len(self.rows) if prompts else 0):
            self._prompt(row)

    @property
    def seed(self) -> int:
        """Of the order of rows."""
        return self._data.seed

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, row: int) -> str:
        """A row's place, for people."""
        return f"{self.path}, {self._unit} {row + 1}"

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
            messages=self._prompt(row) if self._prompts else [],
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
            raise DatasetError(
                f"{self.at(row)}: preference data needs chosen and rejected, or answers, or label; "
                f"it has {_have(fields, ('chosen', 'rejected', 'answers', 'label'))}"
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
            return [_message(m) for m in self.rows[row][key]]
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"{self.at(row)}: {key} must be a list of objects with role and content") from error

    def _last(self, row: int, key: str) -> str:
        value = self.rows[row][key]
        if isinstance(value, list):
            conversation = self._conversation(row, key)
            if not conversation or conversation[-1].role != "assistant":
                raise DatasetError(f"{self.at(row)}: {key} must end with an assistant message")
            return conversation[-1].content
        return self._texts(row, key, [value])[0]

    def _texts(self, row: int, key: str, values: Any) -> list[str]:
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise DatasetError(f"{self.at(row)}: {key} must be text")
        return values

    def _fill(self, template: str, row: int, key: str) -> str:
        try:
            return template.format_map(self.rows[row])
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            wanted = error.args[:1] if isinstance(error, KeyError) else ()
            have = _have(self.rows[row], wanted)
            raise DatasetError(f"{self.at(row)}: data.{key} {template!r} needs {error}; it has {have}") from error

    @functools.lru_cache(maxsize=2)  # noqa: B019 - one data set lives as long as its process
    def _order(self, turn: int) -> Sequence[int]:
        order = list(range(len(self.rows)))
        random.Random(f"{self._data.seed}/{turn}").shuffle(order)
        return order


def _message(raw: Any) -> Message:
    """A message as chat data sets write it; tool calls in the form that chat templates take."""
    content = raw.get("content") if raw.get("tool_calls") else raw["content"]
    message = Message(role=raw["role"], content=content or "", null_content=content is None)
    for key in ("reasoning_content", "tool_call_id", "name"):
        setattr(message, key, raw.get(key) or "")
    for call in raw.get("tool_calls") or ():
        function = call["function"]
        given = function["arguments"]
        arguments = given if isinstance(given, str) else json.dumps(given)
        message.tool_calls.add(id=call.get("id") or "", name=function["name"], arguments_json=arguments)
    return message


def _have(fields: Mapping[str, Any], wanted: Sequence[str]) -> str:
    """The names of a row's fields, and which of them may have been meant."""
    near = [(name, difflib.get_close_matches(name, fields, n=1)) for name in wanted if name not in fields]
    meant = ", ".join(f"{found[0]!r} for {name!r}" for name, found in near if found)
    return ", ".join(sorted(fields)) + (f"; is {meant} meant?" if meant else "")
