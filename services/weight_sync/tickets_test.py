"""A ticket is good once and for a while."""

import pathlib

from hypothesis import given
from hypothesis import strategies as st

from services.weight_sync.tickets import MOST, TICKET_BYTES, TICKET_SECONDS, Grant, Tickets

GRANT = Grant(pathlib.Path("x"), 0, 9)
MOMENTS = st.lists(st.tuples(st.booleans(), st.floats(0, TICKET_SECONDS)), max_size=40)


@given(MOMENTS)
def test_a_ticket_is_good_once_and_for_ticket_seconds(moments: list[tuple[bool, float]]) -> None:
    tickets, now, out = Tickets(), 0.0, list[tuple[bytes, float]]()
    for issues, later in moments:
        now += later
        if issues or not out:
            out.append((tickets.issue(GRANT, now), now + TICKET_SECONDS))
        else:
            ticket, until = out.pop(0)
            assert (tickets.redeem(ticket, now) is GRANT) == (now < until)
            assert tickets.redeem(ticket, now) is None
    assert tickets.redeem(bytes(TICKET_BYTES), now) is None and tickets.redeem(b"", now) is None


def test_of_too_many_the_oldest_is_good_no_more() -> None:
    tickets = Tickets()
    out = [tickets.issue(GRANT, 0.0) for _ in range(MOST + 1)]
    assert len({*out}) == MOST + 1
    assert tickets.redeem(out[0], 1.0) is None and tickets.redeem(out[1], 1.0) is GRANT
