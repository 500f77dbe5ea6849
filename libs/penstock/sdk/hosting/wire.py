"""A sample and its result on the wire: as protos between processes, as JSON on a worker's pipe.

What reads somebody else's writing distrusts it: ValueError for a text that is no JSON, and a worker's result is checked
once more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.common.v1 import common_pb2
from penstock.reward.v1 import reward_pb2
from penstock.sdk.agents import Task
from penstock.sdk.samples import FinishReason, Invalid, Message, Result, Sample, Scored, as_result, parse_json
from penstock.trajectory.v1 import trajectory_pb2

_FINISH: dict[int, FinishReason] = {
    trajectory_pb2.FINISH_REASON_STOP: "stop",
    trajectory_pb2.FINISH_REASON_LENGTH: "length",
}


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


def text(value: str) -> str:
    """`value` as the wire can carry it: half a surrogate pair, which JSON can bring in, becomes a question mark."""
    return value.encode(errors="replace").decode()


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


def task_to_json(task: Task) -> dict[str, Any]:
    """For a worker process."""
    return {"row": dict(task.row), "messages": messages_to_json(task.messages), "seed": task.seed}


def task_from_json(fields: Mapping[str, Any]) -> Task:
    """The inverse of `task_to_json`."""
    return Task(fields["row"], messages_from_json(fields["messages"]), fields["seed"])


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
        scored = {"value": result.value, "components": dict(result.components), "answer": result.answer}
        return {**scored, "rewards": dict(result.rewards)}
    return {"invalid": result.reason}


def result_from_json(fields: Mapping[str, Any]) -> Result:
    """The inverse of `result_to_json`; checked again, since the worker ran somebody's code."""
    if "invalid" in fields:
        return Invalid(str(fields["invalid"]))
    return as_result(
        Scored(fields["value"], fields.get("components", {}), fields.get("answer"), fields.get("rewards", {}))
    )
