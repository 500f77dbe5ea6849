"""A kind's places are its own."""

from contextlib import ExitStack

import pytest

from penstock.access import Quota
from penstock.rpc.errors import Abort
from penstock.rpc.quotas import BURST_SECONDS, Quotas

SMALL = {"rollout": Quota(2, 1000), "operator": Quota(100, 2)}


def test_a_kind_that_takes_its_whole_quota_takes_nothing_of_anothers() -> None:
    quotas = Quotas(SMALL, clock=lambda: 0.0)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(quotas.place("rollout"))
        with pytest.raises(Abort, match="rollout has 2 calls in progress"), quotas.place("rollout"):
            pass
        for other in ("operator", "anybody"):
            with quotas.place(other):
                pass
    with quotas.place("rollout"):
        pass


def test_calls_begin_at_the_rate_of_their_kind() -> None:
    now = 0.0
    quotas = Quotas(SMALL, clock=lambda: now)

    def begun() -> int:
        count = 0
        try:
            while count < 1000:
                with quotas.place("operator"):
                    count += 1
        except Abort as refused:
            assert "more than 2 calls a second" in str(refused)
        return count

    assert begun() == 2 * BURST_SECONDS and begun() == 0
    now = 1.5
    assert begun() == 3
    now = 1000.0
    assert begun() == 2 * BURST_SECONDS
