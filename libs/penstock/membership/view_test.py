"""What a view says of its members, whatever is read and heard in whatever order."""

import random

from hypothesis import given
from hypothesis import strategies as st

from penstock.membership import GONE_SECONDS, Member, MemberState, View, preferred
from penstock.membership.view import MISSED_SECONDS

NAMES = [f"generation-{i}" for i in range(4)]
STATES = [MemberState.MEMBER_STATE_STARTING, MemberState.MEMBER_STATE_READY, MemberState.MEMBER_STATE_DRAINING]
READY = MemberState.MEMBER_STATE_READY
instances = st.sets(st.integers(0, 99).map(lambda i: f"generation-{i}"), min_size=1, max_size=12)


def member(instance: str = NAMES[0], state: MemberState = READY, zone: str = "") -> Member:
    return Member(kind="generation", instance=instance, state=state, zone=zone, address=f"{instance}:1")


entries = st.lists(
    st.tuples(st.sampled_from(NAMES), st.none() | st.sampled_from(STATES), st.integers(1, 1000)),
    unique_by=lambda entry: entry[2],
    max_size=30,
)


@given(entries, st.randoms(use_true_random=False))
def test_the_newest_revision_of_a_key_counts_in_whatever_order_they_are_read(
    written: list[tuple[str, MemberState | None, int]], rng: random.Random
) -> None:
    wanted = {name: state for name, state, _ in sorted(written, key=lambda entry: entry[2])}
    rng.shuffle(written)
    view = View()
    for name, state, revision in written:
        view.entry(name, None if state is None else member(name, state), revision, 0.0)
    assert {m.instance: m.state for m in view.members()} == {n: s for n, s in wanted.items() if s is not None}


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 100)), min_size=1, max_size=40))
def test_a_member_that_is_not_heard_is_in_no_view(heard: list[tuple[str, int]]) -> None:
    view, last = View(), dict[str, int]()
    for revision, (name, now) in enumerate(sorted(heard, key=lambda each: each[1]), start=1):
        if name in last:
            view.hear(name, now)
        else:
            view.entry(name, member(name), revision, now)
        last[name] = now
        view.expire(now)
        for other in {m.instance for m in view.members()}:
            assert now - last[other] < GONE_SECONDS
        last = {m.instance: last[m.instance] for m in view.members()}
    end = max(last.values()) + GONE_SECONDS
    assert sorted(view.expire(end)) == sorted(last) and not view.members()


@given(st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from(["a", "b", ""])), max_size=8))
def test_only_ready_members_get_work_the_nearest_first(
    found: list[tuple[MemberState, str]],
) -> None:
    view = View()
    for i, (state, zone) in enumerate(found):
        view.entry(str(i), member(f"generation-{i}", state, zone), i + 1, 0.0)
    able = view.ready("generation", zone="a")
    assert {m.instance for m in able} == {f"generation-{i}" for i, (state, _) in enumerate(found) if state == READY}
    assert [m.zone == "a" for m in able] == sorted((m.zone == "a" for m in able), reverse=True)


@given(instances, st.lists(st.text(min_size=1), min_size=1, max_size=50))
def test_adding_one_of_n_moves_keys_to_the_new_one_alone(before: set[str], keys: list[str]) -> None:
    for key in keys:
        was, now = preferred(key, before), preferred(key, before | {"generation-new"})
        assert now in (was, "generation-new")


@given(instances.filter(lambda found: len(found) > 1), st.lists(st.text(min_size=1), min_size=1, max_size=50))
def test_removing_one_moves_its_own_keys_alone(before: set[str], keys: list[str]) -> None:
    gone = min(before)
    for key in keys:
        was, now = preferred(key, before), preferred(key, before - {gone})
        assert now == was or was == gone


def test_a_share_of_one_in_n_moves() -> None:
    keys = [f"g{i}" for i in range(4000)]
    moved = sum(preferred(k, NAMES) != preferred(k, [*NAMES, "generation-4"]) for k in keys)
    assert 0.15 < moved / len(keys) < 0.25


def test_what_is_said_again_changes_nothing_and_a_member_may_come_back() -> None:
    view = View()
    assert view.entry("k", member(), 1, 0.0) and view.holds("k", member())
    assert not view.entry("k", member(), 2, 1.0)
    assert view.expire(1.0 + GONE_SECONDS) == ["k"] and not view.holds("k", member())
    assert view.entry("k", member(), 3, 20.0) and view.members() == [member()]


def test_a_reward_is_found_by_the_one_who_serves_it() -> None:
    view = View()
    for i, serves in enumerate(("help", "harm")):
        view.entry(serves, Member(kind="judge", instance=f"judge-{i}", state=READY, serves=serves), 1, 0.0)
    assert [m.instance for m in view.ready("judge", "harm")] == ["judge-1"]
    assert len(view.of("judge")) == 2 and not view.of("teacher")


def test_a_member_that_fell_silent_is_missed_until_it_comes_again_or_for_a_while() -> None:
    view, gone = View(), GONE_SECONDS
    view.entry("k", member(), 1, now=0.0)
    view.entry("left", member(), 2, now=0.0)
    view.entry("left", None, 3, now=1.0)
    assert view.missed(gone) == []
    view.expire(gone)
    assert view.missed(gone + 3) == [(member(), gone + 3)]
    assert view.missed(gone + MISSED_SECONDS) == []
    view.entry("k", member(), 4, now=gone + 4)
    assert view.missed(gone + 5) == []
