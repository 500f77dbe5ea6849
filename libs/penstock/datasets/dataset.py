"""Rows of a data set in a seeded order that can be entered anywhere: group k's row is a function of the seed and k."""

import difflib
import functools
import json
import pathlib
import random
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from penstock.common.v1.common_pb2 import Message
from penstock.datasets.conversations import message_of
from penstock.datasets.reading import DatasetError, Rows, read
from penstock.recipes.sections import Data
from penstock.recipes.sections.data import PROMPT
from penstock.trajectory.v1 import trajectory_pb2 as pb


class _Texts(string.Formatter):
    """Fills in texts and numbers; null, a list or an object is no text that anybody meant to train on."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"a text or a number, not {value!r:.80}")
        text: str = super().format_field(value, format_spec)
        return text


TEXTS = _Texts()


class Dataset:
    """The rows of a data set (see `reading`), as they are found; `trying` says which of them a recipe can use.

    prompts: whether a row says what the model is asked; a multi-turn environment does that itself. limit: rows taken,
    from the first. found: the rows, where they lie in no file.

    Attributes:
        rows: those that can be drawn. left_out: a sentence for each line or row that is not, in the order of finding.
    """

    def __init__(
        self,
        path: pathlib.Path,
        data: Data,
        *,
        shuffle: bool,
        prompts: bool = True,
        limit: int | None = None,
        found: Rows | None = None,
    ) -> None:
        self.path, self._data, self._shuffle, self._prompts = path, data, shuffle, prompts
        found = found or read(path)
        if found.faults and data.bad_rows == "refuse":
            raise DatasetError(found.faults[0])
        self.rows, self._places, self.left_out = found.rows[:limit], found.places[:limit], found.faults

    @property
    def seed(self) -> int:
        """Of the order of rows."""
        return self._data.seed

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, row: int) -> str:
        """A row's place, for people."""
        file, unit, number = self._places[row]
        return f"{file}, {unit} {number}"

    def sift(self, use: Callable[[int], object]) -> None:
        """Tries rows with `use`, as many as `data.check` says. One that raises DatasetError is left out where
        `data.bad_rows` says so; else, or if none is left, the error stands."""
        bad = set()
        for row in range(len(self.rows))[: None if self._data.check == "all" else self._data.check]:
            try:
                use(row)
            except DatasetError as error:
                if self._data.bad_rows == "refuse":
                    raise
                self.left_out.append(str(error))
                bad.add(row)
        self.rows = [each for row, each in enumerate(self.rows) if row not in bad]
        self._places = [each for row, each in enumerate(self._places) if row not in bad]
        if not self.rows:
            raise DatasetError(f"{self.path}: no row can be used; the first: {self.left_out[0]}")

    def position(self, number: int) -> tuple[int, int]:
        """(pass, row) of the number-th draw. Every pass visits every row once."""
        turn, at = divmod(number, len(self.rows))
        return turn, self._order(turn)[at] if self._shuffle else at

    def task(self, row: int, environment: str, source: str = "") -> pb.Task:
        """The row as a task of an environment. Raises DatasetError for a conversation that ends with the answer."""
        return pb.Task(
            id=f"{self.path.stem}/{row}",
            environment=environment,
            source=source,
            messages=self._question(row) if self._prompts else [],
            row_json=json.dumps(self.rows[row]),
            tools_json=self._tools(row),
        )

    def demonstration(self, row: int) -> pb.Demonstration:
        """The row as a conversation to imitate: its `messages`, or the recipe's prompt and completion."""
        messages = self._prompt(row)
        if not self._has_conversation(row):
            said = self._fill(self._data.completion, row, "completion")
            messages = [*messages, Message(role="assistant", content=said)]
        return pb.Demonstration(messages=messages, tools_json=self._tools(row))

    def preference(self, row: int) -> pb.PreferenceWork:
        """The row as ranked answers to a prompt.

        `chosen` and `rejected` (texts, or conversations that end with the answer), `answers` (texts, the best first),
        or `label` (true or false) for the recipe's completion alone.
        """
        fields = self._given(row)
        work = pb.PreferenceWork(prompt=self._prompt(row), tools_json=self._tools(row))
        if "answers" in fields:
            texts = self._texts(row, "answers", fields["answers"])
            for place, text in enumerate(texts, 1):
                work.answers.add(message=Message(role="assistant", content=text), score=len(texts) - place)
        elif "chosen" in fields and "rejected" in fields:
            for key, score in (("chosen", 1.0), ("rejected", 0.0)):
                work.answers.add(message=self._answer(row, key, work.prompt), score=score)
            if work.answers[0].message == work.answers[1].message:
                raise DatasetError(f"{self.at(row)}: chosen and rejected are the same: nothing is preferred")
        elif "label" in fields:
            said = Message(role="assistant", content=self._fill(self._data.completion, row, "completion"))
            work.answers.add(message=said, score=self._label(row))
        else:
            raise DatasetError(
                f"{self.at(row)}: preference data needs chosen and rejected, or answers, or label; "
                f"it has {_have(fields, ('chosen', 'rejected', 'answers', 'label'))}"
            )
        return work

    def _given(self, row: int) -> Mapping[str, Any]:
        """The row's fields that are not null: tables fill in null where a row lacks a column."""
        return {name: value for name, value in self.rows[row].items() if value is not None}

    def _has_conversation(self, row: int) -> bool:
        """Whether the row's own conversation is used: a prompt that the recipe states comes before it."""
        return self._data.messages in self._given(row) and self._data.prompt == PROMPT

    def _prompt(self, row: int) -> list[Message]:
        fields = self._given(row)
        if self._has_conversation(row):
            messages = self._conversation(row, self._data.messages)
        elif self._data.prompt == PROMPT and isinstance(fields.get("prompt"), list):
            messages = self._conversation(row, "prompt")
        elif self._data.prompt == PROMPT and "prompt" not in fields and isinstance(fields.get("chosen"), list):
            messages = self._conversation(row, "chosen")[:-1]
        else:
            messages = [Message(role="user", content=self._fill(self._data.prompt, row, "prompt"))]
        if self._data.system is not None and not any(m.role == "system" for m in messages[:1]):
            messages.insert(0, Message(role="system", content=self._data.system))
        return messages

    def _question(self, row: int) -> list[Message]:
        """The prompt for a rollout, which the model itself answers."""
        messages = self._prompt(row)
        if messages and messages[-1].role == "assistant":
            if not self._data.cut_answer:
                raise DatasetError(
                    f"{self.at(row)}: the conversation ends with the assistant: the model would be asked question "
                    "and answer; data.cut_answer: true takes it without the answer, data.prompt asks something else"
                )
            messages.pop()
        if not messages:
            raise DatasetError(f"{self.at(row)}: the conversation asks nothing")
        return messages

    def _conversation(self, row: int, key: str) -> list[Message]:
        try:
            messages = [message_of(m) for m in self.rows[row][key]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(
                f"{self.at(row)}: {key} must be a list of objects with role and content, or from and value: {error}"
            ) from error
        if not messages:
            raise DatasetError(f"{self.at(row)}: {key} is an empty conversation")
        return messages

    def _answer(self, row: int, key: str, prompt: Sequence[Message]) -> Message:
        value = self.rows[row][key]
        if not isinstance(value, list):
            return Message(role="assistant", content=self._texts(row, key, [value])[0])
        *context, answer = self._conversation(row, key)
        if answer.role != "assistant":
            raise DatasetError(f"{self.at(row)}: {key} must end with an assistant message")
        asked = [m for m in prompt if m.role != "system"]
        if context and [m for m in context if m.role != "system"] != asked:
            raise DatasetError(f"{self.at(row)}: {key} answers another conversation than the row's prompt")
        return answer

    def _label(self, row: int) -> float:
        label = self.rows[row]["label"]
        if label not in (0, 1) or not isinstance(label, (bool, int)):
            raise DatasetError(f"{self.at(row)}: label must be true or false (or 1 or 0), not {label!r:.80}")
        return float(label)

    def _tools(self, row: int) -> str:
        """The row's `tools` as a JSON array; some data sets keep them as JSON text. Empty if there are none."""
        given = self.rows[row].get("tools")
        if given is None or given == "":
            return ""
        try:
            tools = json.loads(given) if isinstance(given, str) else given
        except ValueError as error:
            raise DatasetError(f"{self.at(row)}: tools: {error}") from error
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise DatasetError(f"{self.at(row)}: tools must be a list of objects, not {given!r:.80}")
        return json.dumps(tools) if tools else ""

    def _texts(self, row: int, key: str, values: Any) -> list[str]:
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise DatasetError(f"{self.at(row)}: {key} must be text")
        return values

    def _fill(self, template: str, row: int, key: str) -> str:
        try:
            return TEXTS.vformat(template, (), self.rows[row])
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            wanted = error.args[:1] if isinstance(error, KeyError) else ()
            have = _have(self.rows[row], wanted)
            raise DatasetError(f"{self.at(row)}: data.{key} {template!r} needs {error}; it has {have}") from error

    @functools.lru_cache(maxsize=2)  # noqa: B019 - one data set lives as long as its process
    def _order(self, turn: int) -> Sequence[int]:
        order = list(range(len(self.rows)))
        random.Random(f"{self._data.seed}/{turn}").shuffle(order)
        return order


def _have(fields: Mapping[str, Any], wanted: Sequence[str]) -> str:
    """The names of a row's fields, and which of them may have been meant."""
    near = [(name, difflib.get_close_matches(name, fields, n=1)) for name in wanted if name not in fields]
    meant = ", ".join(f"{found[0]!r} for {name!r}" for name, found in near if found)
    return ", ".join(sorted(fields)) + (f"; is {meant} meant?" if meant else "")
