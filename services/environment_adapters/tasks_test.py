import pytest

from penstock.sdk.environments import BadRow
from services.environment_adapters.tasks import HELD_OUT, number_of, seed_of


def test_no_task_that_is_trained_on_is_measured_with() -> None:
    trained = {seed_of({"index": n}) for n in (0, 1, HELD_OUT - 1)}
    assert max(trained) < min(seed_of({"index": n, "held_out": True}) for n in (0, 1))


@pytest.mark.parametrize("row", [{}, {"index": -1}, {"index": "1"}, {"index": True}, {"index": HELD_OUT}])
def test_a_row_without_a_number_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(BadRow, match="a row needs index, a number from 0"):
        number_of(row)
