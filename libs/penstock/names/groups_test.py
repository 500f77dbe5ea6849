import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.names import evaluation_group, group_number, training_group
from penstock.names.run import token


@given(st.integers(0, 10**10))
def test_a_training_groups_name_gives_its_number_back(number: int) -> None:
    assert group_number(training_group(number)) == number == int(token(training_group(number), "group")[1:])


@given(st.integers(0, 10**8 - 1), st.integers(0, 10**8 - 1))
def test_names_sort_as_numbers_do(a: int, b: int) -> None:
    assert (training_group(a) < training_group(b)) == (a < b)


PLACES = st.tuples(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 9))


@given(PLACES, PLACES)
def test_evaluation_groups_are_told_apart(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert (evaluation_group(*one) == evaluation_group(*other)) == (one == other)
    assert token(evaluation_group(*one), "group")
    assert evaluation_group(*one[:2]) == evaluation_group(*one[:2], 0)


@pytest.mark.parametrize("name", ["", "g", "g1", "e00000001-0", "g0000000x", "g00000001\n", " g00000001", "g-0000001"])
def test_other_names_have_no_number(name: str) -> None:
    with pytest.raises(ValueError):
        group_number(name)


def test_negative_numbers_have_no_name() -> None:
    with pytest.raises(ValueError):
        training_group(-1)
    for place in ((-1, 0, 0), (0, -1, 0), (0, 0, -1)):
        with pytest.raises(ValueError):
            evaluation_group(*place)
