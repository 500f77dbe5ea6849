"""What every folded tree must satisfy, for any sequences that begin alike in any nested way."""

import time
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.packing import folding
from penstock.packing.folding import Tree, fold

Sequences = list[NDArray[np.int32]]


def nested(seed: int) -> Sequences:
    """Up to twelve sequences that begin as those before them do, some of them equal to or a beginning of another."""
    rng = np.random.default_rng(seed)
    letters = int(rng.integers(1, 4))
    made: Sequences = []
    for _ in range(int(rng.integers(1, 13))):
        own = rng.integers(0, letters, int(rng.integers(1, 20))).astype(np.int32)
        if made and rng.random() < 0.8:
            other = made[int(rng.integers(len(made)))]
            own = np.concatenate([other[: int(rng.integers(len(other) + 1))], own[int(rng.integers(len(own) + 1)) :]])
            own = own if len(own) else other.copy()
        made.append(own)
    return made


CASES = {"seed": st.integers(0, 10_000), "least": st.integers(1, 9), "multiple": st.sampled_from([1, 2, 3, 4])}


def unfolded(tree: Tree, sequences: Sequences, i: int) -> list[int]:
    parts = [tree.segments[s] for s in tree.paths[i]]
    return [int(t) for p in parts for t in sequences[p.sequence][p.position : p.position + p.length]]


@settings(deadline=None, max_examples=300)
@given(**CASES)
def test_every_path_is_its_sequence(seed: int, least: int, multiple: int) -> None:
    sequences = nested(seed)
    tree = fold(sequences, least, multiple)
    for i, path in enumerate(tree.paths):
        assert unfolded(tree, sequences, i) == sequences[i].tolist()
        assert [tree.segments[s].parent for s in path] == [-1, *path[:-1]]
        lengths = [tree.segments[s].length for s in path]
        assert [tree.segments[s].position for s in path] == [sum(lengths[:j]) for j in range(len(lengths))]
    assert {s for path in tree.paths for s in path} == set(range(len(tree.segments))), "nothing is computed for nobody"
    assert sorted(tree.order) == sorted(i for root in tree.roots for i in root) == list(range(len(sequences)))


@settings(deadline=None, max_examples=300)
@given(**CASES)
def test_descendants_follow_a_segment_without_a_gap(seed: int, least: int, multiple: int) -> None:
    segments = fold(nested(seed), least, multiple).segments
    path: list[int] = []
    for i, segment in enumerate(segments):
        while path and path[-1] != segment.parent:
            path.pop()
        assert segment.parent == (path[-1] if path else -1), "its parent is the segment before it or above that"
        path.append(i)


@settings(deadline=None, max_examples=300)
@given(**CASES)
def test_no_shared_segment_is_shorter_than_asked(seed: int, least: int, multiple: int) -> None:
    tree = fold(nested(seed), least, multiple)
    parents = {s.parent for s in tree.segments} - {-1}
    lengths = [tree.segments[p].length for p in parents]
    assert all(n >= least and n % multiple == 0 for n in lengths)


@settings(deadline=None, max_examples=300)
@given(**CASES)
def test_folding_adds_no_padding(seed: int, least: int, multiple: int) -> None:
    sequences = nested(seed)

    def padded(lengths: Iterable[int]) -> int:
        return sum(-(-n // multiple) * multiple for n in lengths)

    tree = fold(sequences, least, multiple)
    assert padded(s.length for s in tree.segments) <= padded(map(len, sequences))


@settings(deadline=None, max_examples=300)
@given(seed=st.integers(0, 10_000))
def test_what_is_equal_stands_once(seed: int) -> None:
    """With segments of any length, as many tokens are computed as there are different beginnings."""
    sequences = nested(seed)
    beginnings = {tuple(s[: n + 1].tolist()) for s in sequences for n in range(len(s))}
    assert fold(sequences, 1).tokens == len(beginnings)


def test_worked_example() -> None:
    sequences = [np.array([ord(c) for c in word], np.int32) for word in ("abcde", "abcf", "abcfg", "xy")]
    tree = fold(sequences, 1)
    assert [(s.position, s.length, s.parent) for s in tree.segments] == [
        (0, 3, -1),
        (3, 2, 0),
        (3, 1, 0),
        (4, 1, 2),
        (0, 2, -1),
    ]
    assert tree.paths == [[0, 1], [0, 2], [0, 2, 3], [4]]
    assert tree.roots == [[0, 1, 2], [3]]


def test_tokens_are_compared_as_numbers() -> None:
    """Large ids too: 256 sorts behind 1, whatever their bytes are."""
    sequences = [np.array([256, 5], np.int32), np.array([1, 7], np.int32), np.array([256, 9], np.int32)]
    assert fold(sequences, 1).order == [1, 0, 2]


def test_sequences_of_different_kinds_share_nothing() -> None:
    tree = fold([np.arange(9)] * 3, kinds=[1, 0, 1])
    assert tree.tokens == 18 and tree.roots == [[1], [0, 2]]


@pytest.mark.parametrize("groups", [256])
def test_a_large_batch_is_folded_in_no_time(groups: int) -> None:
    """4,096 sequences of 2,048 tokens in groups of 16. The limit of the design is 0.2 s of a core that is free; here it
    is in CPU seconds, and five times that."""
    rng = np.random.default_rng(0)
    sequences = []
    for _ in range(groups):
        prompt = rng.integers(0, 50_000, 1024)
        sequences += [np.concatenate([prompt, rng.integers(0, 50_000, 1024)]).astype(np.int32) for _ in range(16)]
    began = time.process_time()
    tree = fold(sequences)
    assert time.process_time() - began < 1.0
    assert tree.tokens == groups * (1024 + 16 * 1024) and len(tree.roots) == groups
    assert folding.LEAST == 8
