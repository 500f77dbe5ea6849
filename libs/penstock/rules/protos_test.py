"""What breaks the rules of the protos is said, whatever is in a message, and never raised."""

import protovalidate
import pytest

from penstock.rules import protos
from penstock.rules.protos import violations
from penstock.trajectory.v1 import trajectory_pb2 as pb

MOST = 2**32 - 1


def test_numbers_that_are_too_large_for_a_rule_break_it() -> None:
    found = violations(pb.Routes(layers=MOST, top=MOST, count=MOST, experts=MOST))
    assert {each.field for each in found} >= {"layers", "top", "experts"}


def test_a_rule_that_cannot_be_worked_out_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Overflowing:
        def collect_violations(self, message: object) -> list[object]:
            raise protovalidate.EvaluationError("error evaluating routes.gaps: unsigned integer overflow")

    monkeypatch.setattr(protos, "_VALIDATOR", Overflowing())
    (broken,) = violations(pb.Routes())
    assert "overflow" in broken.description and broken.rule == "penstock.evaluation"
