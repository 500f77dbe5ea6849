"""Which node a process is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.learner.nodes.claims import free, told_rank
from services.learner.nodes.standing import Node


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=40), st.integers(1, 4))
def test_two_nodes_that_are_alive_never_have_one_number(events: list[tuple[str, bool]], count: int) -> None:
    held: dict[int, Node] = {}
    alive: set[str] = set()
    for instance, comes in events:
        if not comes:
            alive.discard(instance)
            continue
        alive.add(instance)
        rank = free(held, count, instance, frozenset(alive))
        if rank is not None:
            assert rank < count
            assert rank not in held or held[rank].instance == instance or held[rank].instance not in alive
            held[rank] = Node(instance, "host")
        else:
            assert len(held) == count and all(node.instance in alive for node in held.values())
        living = [node.instance for node in held.values() if node.instance in alive]
        assert len(living) == len(set(living))


def test_a_process_is_told_its_number_by_its_flag_its_job_or_its_pod() -> None:
    job, pods = {"JOB_COMPLETION_INDEX": "1"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert told_rank(2, job, "learner-0", 3) == 2
    assert told_rank(None, job, "learner-0", 3) == 1
    assert told_rank(None, pods, "learner-2", 3) == 2
    assert told_rank(None, {}, "host-2", 3) is None, "a host may be called so"
    for flag, environment, name in ((3, {}, "h"), (-1, {}, "h"), (None, {"JOB_COMPLETION_INDEX": "3"}, "h")):
        with pytest.raises(ValueError, match="is none of learner.nodes 3, which are 0 to 2"):
            told_rank(flag, environment, name, 3)
