"""What commands show of waits and samples: rows for people, chosen and put together. Pure."""

import datetime
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.diagnostics.v1 import diagnostics_pb2

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_WHERE = re.compile(r"\s*([\w./-]+)\s*(<=|>=|==|!=|<|>)\s*(\S+)\s*")


@dataclass(frozen=True)
class Waiting:
    """Waits of one service for the same thing: how many, since when the oldest, and the nearest deadline."""

    what: str
    on: str
    count: int
    seconds: float
    left: float | None


def together(waits: Iterable[diagnostics_pb2.Wait], now: datetime.datetime) -> list[Waiting]:
    """One row for waits that differ in nothing but a number or a group; the oldest first."""
    rows: dict[tuple[str, str], list[diagnostics_pb2.Wait]] = {}
    for wait in waits:
        rows.setdefault((re.sub(r"g\d{8}|\d+", "…", wait.what), wait.on), []).append(wait)
    found = []
    for (alike, on), each in rows.items():
        ends = [w.deadline.ToDatetime(datetime.UTC) for w in each if w.HasField("deadline")]
        found.append(
            Waiting(
                each[0].what if len(each) == 1 else alike,
                on,
                len(each),
                max((now - w.since.ToDatetime(datetime.UTC)).total_seconds() for w in each),
                min(((end - now).total_seconds() for end in ends), default=None),
            )
        )
    return sorted(found, key=lambda row: -row.seconds)


def chosen(samples: Sequence[pb.Sample], where: str) -> list[pb.Sample]:
    """Samples whose reward, or part of the reward, compares as in "reward<0.1" or "length>=3"; one that lacks it never
    does. Raises ValueError for another form."""
    match = _WHERE.fullmatch(where)
    if match is None:
        raise ValueError(f"{where!r} must have the form NAME<NUMBER, with one of {' '.join(OPERATORS)}")
    name, compare, number = match[1], OPERATORS[match[2]], float(match[3])
    return [s for s in samples if (value := _value(s, name)) is not None and compare(value, number)]


def _value(sample: pb.Sample, name: str) -> float | None:
    if name == "reward":
        return sample.reward if sample.HasField("reward") else None
    return next((part.value for part in sample.components if part.name == name), None)
