"""A stall is announced once, and again only after the run has moved."""

from services.coordinator.reporting.stalls import StallWatch


def test_a_stall_is_announced_once_and_again_only_after_the_run_has_moved() -> None:
    watch = StallWatch(10.0)
    told = [watch.look((5, 5), True, now) for now in (0.0, 9.9, 10.0, 11.0, 30.0)]
    assert told == [False, False, True, False, False] and watch.stalled and watch.seconds(30.0) == 30.0
    assert not watch.look((5, 6), True, 31.0) and not watch.stalled
    assert not watch.look((5, 6), True, 40.0) and watch.look((5, 6), True, 41.0)


def test_what_is_excused_is_looked_at_again() -> None:
    watch = StallWatch(10.0)
    assert not watch.look((5, 5), True, 0.0) and watch.look((5, 5), True, 10.0)
    watch.excuse(10.0)
    assert not watch.stalled and not watch.look((5, 5), True, 19.0) and watch.look((5, 5), True, 20.0)


def test_a_run_that_need_not_move_does_not_stall() -> None:
    watch = StallWatch(10.0)
    assert not watch.look((0, 0), True, 0.0)
    assert not watch.look((0, 0), False, 15.0)  # paused
    assert not watch.look((0, 0), True, 20.0)  # the time of the pause does not count
    assert watch.look((0, 0), True, 25.0)
