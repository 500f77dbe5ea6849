import threading

import pytest

from penstock.telemetry.waits import WaitRegistry


def test_a_wait_is_listed_exactly_while_it_is_open() -> None:
    registry = WaitRegistry()
    with pytest.raises(ValueError), registry.waiting("groups 812, 815", on="rollout", deadline=5):
        with registry.waiting("an answer", on="nats", deadline=None):
            assert [(w.what, w.on) for w in registry.snapshot()] == [
                ("groups 812, 815", "rollout"),
                ("an answer", "nats"),
            ]
        (only,) = registry.snapshot()
        assert only.deadline == pytest.approx(only.since + 5)
        raise ValueError
    assert registry.snapshot() == []


def test_a_wait_is_idle_only_where_the_waiter_says_so() -> None:
    registry = WaitRegistry()
    with registry.waiting("a version", on="learner", deadline=None, idle=True):
        with registry.waiting("groups", on="rollout", deadline=5):
            assert [w.idle for w in registry.snapshot()] == [True, False]


def test_threads_do_not_lose_waits() -> None:
    registry = WaitRegistry()

    def work() -> None:
        for number in range(500):
            with registry.waiting(str(number), on="x", deadline=1):
                registry.snapshot()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.snapshot() == []


def test_progress_is_remembered() -> None:
    registry = WaitRegistry()
    assert registry.progress_at is None
    registry.progress()
    assert registry.progress_at is not None
