"""What is started and ended for a number of processes, and what a command may ask for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.supervisor.scaling import counts_of, joined_counts_of, moves


@given(st.sets(st.integers(0, 20)), st.integers(0, 24), st.sampled_from(["", "host-b"]))
def test_names_that_stay_are_kept_the_newest_go_first_and_a_free_name_is_taken_again(
    numbers: set[int], count: int, place: str
) -> None:
    start = f"generation-{place}-" if place else "generation-"
    have = [f"{start}{i}" for i in numbers]
    new, gone = moves(have, "generation", count, place)
    after = (set(have) | set(new)) - set(gone)
    assert len(after) == count and not (new and gone) and not set(new) & set(have)
    left = sorted(numbers)[: min(count, len(numbers))]
    assert after >= {f"{start}{i}" for i in left}
    assert gone == [f"{start}{i}" for i in sorted(numbers, reverse=True)][: len(gone)]
    assert new == [f"{start}{i}" for i in range(40) if i not in numbers][: len(new)]


def test_a_kind_that_cannot_be_scaled_and_what_is_no_number_are_refused() -> None:
    assert counts_of(["generation=3", "rollout=0"]) == {"generation": 3, "rollout": 0}
    for word in ("learner=2", "generation", "generation=-1", "generation=many", "rollout=1000"):
        with pytest.raises(ValueError, match="KIND=COUNT, COUNT at most 256 and KIND one of generation"):
            counts_of([word])


def test_a_host_that_joins_keeps_one_process_of_the_learner() -> None:
    assert joined_counts_of(["generation=3", "learner=1"]) == {"generation": 3, "learner": 1}
    assert joined_counts_of(["rollout=2"]) == {"rollout": 2}
    for word in ("learner=2", "learner=0", "learner"):
        with pytest.raises(ValueError, match="one process of the learner, or one node of learner.nodes; say learner=1"):
            joined_counts_of(["generation=1", word])
    with pytest.raises(ValueError, match="KIND=COUNT"):
        joined_counts_of(["learner=1", "coordinator=1"])
