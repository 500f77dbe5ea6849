import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.reward.v1 import reward_pb2
from penstock.sdk.client import checked_results
from penstock.sdk.hosting.wire import message_to_proto, parse_row, result_to_proto, sample_from_json, sample_to_json
from penstock.sdk.samples import Invalid, Message, Sample, Scored, as_result

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.floats()), st.binary()
)


@given(ANYTHING, st.dictionaries(st.text(), st.floats(), max_size=2))
def test_no_failure_becomes_a_number(returned: Any, components: dict[str, float]) -> None:
    for result in (as_result(returned), as_result(Scored(returned, components))):
        if isinstance(result, Scored):
            assert math.isfinite(result.value) and result.value == float(returned)
            assert all(math.isfinite(part) for part in result.components.values())
        else:
            assert result.reason


@given(st.lists(st.tuples(st.sampled_from("abcdx"), st.sampled_from(["score", "nan", "invalid", "empty"])), max_size=8))
def test_every_item_gets_one_result_whatever_the_service_answers(answers: list[tuple[str, str]]) -> None:
    def proto(item: str, kind: str) -> reward_pb2.ScoreResult:
        match kind:
            case "score":
                return reward_pb2.ScoreResult(id=item, score=reward_pb2.Score(value=1))
            case "nan":
                return reward_pb2.ScoreResult(id=item, score=reward_pb2.Score(value=math.nan))
            case "invalid":
                return reward_pb2.ScoreResult(id=item, invalid=reward_pb2.Invalid())
        return reward_pb2.ScoreResult(id=item)

    results = checked_results(list("abcd"), [proto(*answer) for answer in answers])
    assert list(results) == list("abcd")
    for item, result in results.items():
        kinds = [kind for name, kind in answers if name == item]
        assert (result == Scored(1.0)) == (kinds == ["score"])
        assert isinstance(result, Scored) or result.reason


def test_answers_for_other_items_are_named() -> None:
    answers = [reward_pb2.ScoreResult(id="theirs", score=reward_pb2.Score(value=1))]
    result = checked_results(["mine"], answers)["mine"]
    assert isinstance(result, Invalid) and "'theirs'" in result.reason


def test_a_sample_crosses_to_a_worker_unchanged() -> None:
    calls = ({"id": "1", "name": "f", "arguments": {"x": 1}},)
    sample = Sample("a", (Message("user", "hi", calls),), "done", "length", {"answer": "4"})
    assert sample_from_json(sample_to_json(sample)) == sample


class Tensor:
    """As torch's, which is not here."""

    def __init__(self, value: Any, shape: tuple[int, ...] = ()) -> None:
        self.value, self.shape, self.dtype = value, shape, "torch.bfloat16"

    def __float__(self) -> float:
        return float(self.value)


@pytest.mark.parametrize(
    "value",
    [1, True, 1.0, Decimal("1"), Fraction(2, 2), Tensor(1), numpy.float32(1), numpy.bool_(True), numpy.int8(1)]
    + [numpy.float64(1), numpy.array(1.0), numpy.array(True), numpy.float16(1)],
    ids=repr,
)
def test_every_number_is_a_number(value: Any) -> None:
    assert as_result(value) == Scored(1.0)
    assert as_result(Scored(value, {"part": value})) == Scored(1.0, {"part": 1.0})


@pytest.mark.parametrize(
    "value",
    [Tensor("nan"), Tensor(1, (1,)), Tensor("x"), numpy.array([1.0]), numpy.array("1.0"), numpy.nan, 1 + 0j, "1", b"1"]
    + [numpy.complex64(1), numpy.array(1j), Decimal("NaN"), Decimal("sNaN"), Decimal("inf"), None, [1.0]],
    ids=repr,
)
def test_anything_else_is_not(value: Any) -> None:
    for result in (as_result(value), as_result(Scored(0.5, {"part": value}))):
        assert isinstance(result, Invalid) and "not a finite number" in result.reason


@pytest.mark.parametrize(
    "value", [1.1e9, -1e300, 10**5000, Decimal("1e12"), numpy.float32(1e30)], ids=lambda v: type(v).__name__
)
def test_a_number_that_would_drown_all_others_is_invalid(value: Any) -> None:
    result = as_result(value)
    assert isinstance(result, Invalid) and result.reason.endswith("which is beyond 1e+09")


@pytest.mark.parametrize("row", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}", "[]", "{", "nul"])
def test_a_row_that_is_no_usable_object_is_a_value_error(row: str) -> None:
    with pytest.raises(ValueError, match="JSON"):
        parse_row(row)


def test_half_a_surrogate_pair_reaches_the_wire_as_a_question_mark() -> None:
    broken = parse_row('{"a": "b\\ud800"}')["a"]
    assert message_to_proto(Message("user", broken)).content == "b?"
    assert result_to_proto("1", Invalid(broken), 0).invalid.reason == "b?"
    assert dict(result_to_proto("1", Scored(1.0, {broken: 2.0}), 0).score.components) == {"b?": 2.0}


@pytest.mark.parametrize("parts", [{str(i): 1.0 for i in range(1000)}, {"x" * 1000: 1.0}])
def test_parts_that_no_report_could_name_are_invalid(parts: dict[str, float]) -> None:
    assert isinstance(as_result(Scored(1.0, parts)), Invalid)
