"""RunState: whatever is asked, in whatever order, a run's end is one end."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.coordinator.v1 import coordinator_pb2 as pb
from services.coordinator.state.run_state import FINAL, RunState

REASONS = st.sampled_from(["enough", "target reached", "all failed", "no sample"])
Ask = Callable[[RunState], object]


def _ask(name: str, *args: object, **named: object) -> Ask:
    ask: Ask = lambda state: getattr(state, name)(*args, **named)  # noqa: E731
    return ask


ASKS: st.SearchStrategy[Ask] = st.one_of(
    st.booleans().map(lambda paused: _ask("begin", paused=paused)),
    st.booleans().map(lambda paused: _ask("pause", paused)),
    st.builds(_ask, st.sampled_from(["stop", "finish", "fail"]), REASONS),
    st.just(_ask("end")),
)
HISTORIES = st.lists(ASKS, max_size=12)


@given(HISTORIES)
def test_a_final_state_is_never_left(asks: list[Ask]) -> None:
    state, final = RunState(), None
    for ask in asks:
        ask(state)
        if final is not None:
            assert (state.value, state.reason) == final
        if state.over:
            final = (state.value, state.reason)


@given(HISTORIES)
def test_the_first_reason_stands(asks: list[Ask]) -> None:
    state, first = RunState(), ""
    for ask in asks:
        ask(state)
        assert state.reason.startswith(first)
        first = first or state.reason


@given(HISTORIES)
def test_nothing_is_admitted_while_stopping_or_over(asks: list[Ask]) -> None:
    state, ended = RunState(), False
    for ask in asks:
        ask(state)
        ended = ended or state.ending or state.over
        assert not (ended and state.admitting)
        assert state.ending == (state.value == pb.RUN_STATE_STOPPING) or state.over
        assert state.over == (state.value in FINAL)


@given(st.lists(st.booleans(), max_size=5))
def test_a_pause_while_stopping_changes_nothing(pauses: list[bool]) -> None:
    state = RunState()
    state.begin(paused=False)
    state.stop("enough")
    for paused in pauses:
        state.pause(paused)
    assert (state.value, state.word) == (pb.RUN_STATE_STOPPING, "stopping")
    state.end()
    assert (state.value, state.reason) == (pb.RUN_STATE_STOPPED, "enough")


def test_a_run_that_fails_while_stopping_has_failed_and_says_both() -> None:
    state = RunState()
    state.begin(paused=False)
    state.stop("enough")
    state.fail("no sample was scored")
    assert (state.value, state.reason) == (pb.RUN_STATE_FAILED, "enough; no sample was scored")
    assert state.ending  # those who wait for the end go on


def test_a_target_reached_while_a_user_stops_the_run_leaves_it_stopped() -> None:
    state = RunState()
    state.begin(paused=False)
    state.stop("enough")
    assert not state.finish("target reached")
    state.end()
    assert (state.value, state.reason) == (pb.RUN_STATE_STOPPED, "enough")


def test_a_run_finished_by_its_target_is_done_whoever_stops_it_then() -> None:
    state = RunState()
    state.begin(paused=True)
    assert state.finish("target reached")
    state.stop("enough")
    state.end()
    assert (state.value, state.reason, state.word) == (pb.RUN_STATE_DONE, "target reached", "done")


@pytest.mark.parametrize("paused", [False, True])
def test_what_is_asked_while_a_run_starts_is_kept(paused: bool) -> None:
    told = RunState()
    told.pause(paused)
    told.begin(paused=not paused)
    assert told.value == (pb.RUN_STATE_PAUSED if paused else pb.RUN_STATE_RUNNING)
    stopped = RunState()
    stopped.stop("enough")
    stopped.begin(paused=paused)
    assert stopped.value == pb.RUN_STATE_STOPPING
