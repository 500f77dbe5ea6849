from functools import partial

import grpc
import pytest

from penstock.rpc import Abort, Refusals, failed_precondition, not_found, out_of_range, refusing


class Missing(LookupError):
    """Stands for a service's own error."""


TABLE: Refusals = {
    ValueError: partial(out_of_range, reason="VALUE"),
    UnicodeError: failed_precondition,
    Missing: partial(not_found, reason="MISSING"),
}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("why"), grpc.StatusCode.OUT_OF_RANGE),
        (UnicodeError("why"), grpc.StatusCode.FAILED_PRECONDITION),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), grpc.StatusCode.FAILED_PRECONDITION),
        (Missing("why"), grpc.StatusCode.NOT_FOUND),
    ],
)
def test_the_most_specific_class_of_the_table_decides(error: Exception, code: grpc.StatusCode) -> None:
    with pytest.raises(Abort, match="why") as caught, refusing(TABLE):
        raise error
    assert caught.value.code is code and caught.value.__cause__ is error


@pytest.mark.parametrize("error", [LookupError("other"), KeyboardInterrupt()])
def test_what_no_class_covers_passes_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, refusing(TABLE):
        raise error
    assert caught.value is error


def test_a_refusal_stays_what_it_is_even_where_the_table_covers_everything() -> None:
    error = not_found("said already")
    with pytest.raises(Abort) as caught, refusing({Exception: failed_precondition}):
        raise error
    assert caught.value is error


def test_a_block_that_succeeds_is_left_alone() -> None:
    with refusing(TABLE):
        pass
