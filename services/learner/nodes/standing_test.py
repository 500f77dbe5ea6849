"""What follows from what nodes say, whatever they say and in whatever order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.system import exits
from services.learner.nodes.standing import Group, Node, State, Words, cause, ended, gone, missing, named, refusal

WORDS = st.builds(Words, st.text(max_size=20), st.integers(0, 4), st.integers(0, 4))
NODES = st.builds(
    Node,
    st.sampled_from("abc"),
    st.sampled_from(["x", "y"]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.none() | WORDS,
    st.just("") | st.text(max_size=5),
)
HELD = st.dictionaries(st.integers(1, 4), NODES)
ALIVE = st.frozensets(st.sampled_from("abc"))


@given(HELD, ALIVE, st.integers(1, 5), st.integers(1, 3))
def test_no_incarnation_begins_before_every_node_has_met_for_it(
    nodes: dict[int, Node], alive: frozenset[str], count: int, incarnation: int
) -> None:
    lacking = missing(nodes, count, incarnation, alive)
    there = {r for r, node in nodes.items() if node.met == incarnation and node.instance in alive and not node.refused}
    assert set(lacking) == set(range(1, count)) - there
    for rank in lacking:
        assert f"node {rank}" in named(lacking, nodes)
        assert rank not in nodes or f"(it was on {nodes[rank].host})" in named(lacking, nodes)


@given(HELD, ALIVE, st.integers(1, 3))
def test_a_group_is_whole_while_its_nodes_are_there_as_they_met(
    nodes: dict[int, Node], alive: frozenset[str], incarnation: int
) -> None:
    whole = all(node.instance in alive and node.met == incarnation for node in nodes.values())
    assert bool(gone(nodes, incarnation, alive)) == (not whole)
    called = [node for node in nodes.values() if node.met == incarnation and node.instance in alive]
    assert bool(refusal(nodes, incarnation, alive)) == any(node.refused for node in called)


@given(st.lists(WORDS, min_size=1))
def test_the_cause_of_an_end_is_the_word_that_says_most(said: list[Words]) -> None:
    assert cause(said).weight == min(words.weight for words in said)


def test_words_of_another_incarnation_say_nothing_of_this_one() -> None:
    words = Words("rank 3 was killed", exits.FAILED, 2)
    assert ended({1: Node("a", "x", met=2, ended=1, words=words)}, 2) == []
    assert ended({1: Node("a", "x", met=2, ended=2, words=words)}, 2) == [words]


@given(NODES)
def test_what_is_written_is_read(node: Node) -> None:
    assert Node.of(node.value()) == node
    group = Group(3, State.RUNNING, "h:1", "mark", "h", "why", 1)
    assert Group.of(group.value()) == group


@pytest.mark.parametrize("bad", [b"", b"[]", b"{}x", b'{"boss": 1}', b'{"state": "fine"}'])
def test_what_nobody_of_ours_wrote_is_refused(bad: bytes) -> None:
    with pytest.raises(ValueError):
        Group.of(bad)
