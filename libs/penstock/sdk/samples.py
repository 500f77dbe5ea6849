"""What a reward sees and gives: plain Python values, convertible to the protos and to JSON for worker processes.

Invariant (`test_no_failure_becomes_a_number`): whatever a reward returns that is not a finite number becomes `Invalid`
with a reason; no failure ever becomes a score.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from penstock.common.v1 import common_pb2
from penstock.reward.v1 import reward_pb2
from penstock.trajectory.v1 import trajectory_pb2

ANSWER_LENGTH = 4096
FinishReason = Literal["unspecified", "stop", "length"]
_FINISH: dict[int, FinishReason] = {
    trajectory_pb2.FINISH_REASON_STOP: "stop",
    trajectory_pb2.FINISH_REASON_LENGTH: "length",
}


@dataclass(frozen=True)
class Message:
    """One chat message; `role` is system, user, assistant or tool. Tool calls are `{"id", "name", "arguments"}`."""

    role: str
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Sample:
    """One finished sample.

    Attributes:
        prompt: the conversation before the completion.
        completion: its text, without special tokens.
        finish_reason: "stop" if it ended with a stop token, "length" if it ran out of room.
        row: the data set's row.
    """

    id: str
    prompt: tuple[Message, ...] = ()
    completion: str = ""
    finish_reason: FinishReason = "stop"
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """A finite score with its named parts.

    `answer`: what was taken as the sample's answer, equal strings for equal answers, so that samples can vote (cons@k);
    None where that has no meaning.
    """

    value: float
    components: Mapping[str, float] = field(default_factory=dict)
    answer: str | None = None


@dataclass(frozen=True)
class Invalid:
    """The sample could not be scored; `reason` is one sentence."""

    reason: str


Result = Scored | Invalid


def as_result(returned: object) -> Result:
    """The meaning of what a reward returned."""
    if isinstance(returned, Invalid):
        return returned
    if isinstance(returned, Scored):
        bad = [name for name, value in returned.components.items() if not _is_finite(value)]
        if bad:
            return Invalid(f"component {bad[0]!r} is not a finite number")
        value, components = returned.value, {name: float(part) for name, part in returned.components.items()}
        answer = returned.answer if returned.answer is None else str(returned.answer)[:ANSWER_LENGTH]
    else:
        value, components, answer = returned, {}, None  # type: ignore[assignment]
    if not _is_finite(value):
        return Invalid(f"the reward returned {value!r:.80}, which is not a finite number")
    return Scored(float(value), components, answer)


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def finish_reason(value: int) -> FinishReason:
    """The proto's enum as a word."""
    return _FINISH.get(value, "unspecified")


def parse_row(row_json: str) -> dict[str, Any]:
    """The row of a request.

    Raises:
        ValueError: it is not a JSON object.
    """
    row = parse_json(row_json or "{}")
    if not isinstance(row, dict):
        raise ValueError("the row is not a JSON object")
    return row


def parse_json(value: str) -> Any:
    """A JSON text of a request.

    Raises:
        ValueError: it is not JSON, or nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    except (RecursionError, ValueError) as error:
        raise ValueError("not usable JSON: nested too deeply, or a number is too long") from error


def message_from_proto(message: common_pb2.Message) -> Message:
    """A message of the wire."""
    calls = tuple(
        {"id": call.id, "name": call.name, "arguments": parse_json(call.arguments_json or "{}")}
        for call in message.tool_calls
    )
    return Message(message.role, message.content, calls)


def message_to_proto(message: Message) -> common_pb2.Message:
    """A message for the wire."""
    calls = [
        common_pb2.ToolCall(
            id=text(str(call.get("id", ""))),
            name=text(str(call["name"])),
            arguments_json=json.dumps(call.get("arguments", {})),
        )
        for call in message.tool_calls
    ]
    return common_pb2.Message(role=text(message.role), content=text(message.content), tool_calls=calls)


def text(value: str) -> str:
    """`value` as the wire can carry it: half a surrogate pair, which JSON can bring in, becomes a question mark."""
    return value.encode(errors="replace").decode()


def sample_from_proto(item: reward_pb2.ScoreItem) -> Sample:
    """An item of a request.

    Raises:
        ValueError: its row or a tool call is not JSON.
    """
    prompt = tuple(message_from_proto(message) for message in item.prompt)
    return Sample(item.id, prompt, item.completion, finish_reason(item.finish_reason), parse_row(item.row_json))


def result_to_proto(item: str, result: Result, seconds: float) -> reward_pb2.ScoreResult:
    """The answer to an item."""
    answer = reward_pb2.ScoreResult(id=item)
    if isinstance(result, Scored):
        components = {text(name): part for name, part in result.components.items()}
        answer_text = None if result.answer is None else text(result.answer)
        answer.score.CopyFrom(reward_pb2.Score(value=result.value, components=components, answer=answer_text))
    else:
        answer.invalid.reason = text(result.reason)
    answer.took.FromNanoseconds(int(seconds * 1e9))
    return answer


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """For a worker process."""
    return {
        "id": sample.id,
        "prompt": messages_to_json(sample.prompt),
        "completion": sample.completion,
        "finish_reason": sample.finish_reason,
        "row": dict(sample.row),
    }


def sample_from_json(fields: Mapping[str, Any]) -> Sample:
    """The inverse of `sample_to_json`."""
    prompt = messages_from_json(fields["prompt"])
    return Sample(fields["id"], prompt, fields["completion"], fields["finish_reason"], fields["row"])


def messages_to_json(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """For a worker process."""
    return [
        {"role": each.role, "content": each.content, "tool_calls": [dict(call) for call in each.tool_calls]}
        for each in messages
    ]


def messages_from_json(messages: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The inverse of `messages_to_json`."""
    return tuple(Message(each["role"], each["content"], tuple(each["tool_calls"])) for each in messages)


def result_to_json(result: Result) -> dict[str, Any]:
    """For a worker process."""
    if isinstance(result, Scored):
        return {"value": result.value, "components": dict(result.components), "answer": result.answer}
    return {"invalid": result.reason}


def result_from_json(fields: Mapping[str, Any]) -> Result:
    """The inverse of `result_to_json`; checked again, since the worker ran somebody's code."""
    if "invalid" in fields:
        return Invalid(str(fields["invalid"]))
    return as_result(Scored(fields["value"], fields.get("components", {}), fields.get("answer")))
