"""Who is asked before weight_sync, and in which order."""

import pytest

from penstock.fetching.relays import near
from penstock.membership import Member, MemberState, View

READY = MemberState.MEMBER_STATE_READY


def member(kind: str, instance: str, host: str, zone: str, state: MemberState = READY) -> Member:
    return Member(kind=kind, instance=instance, host=host, zone=zone, state=state)


def view(*members: Member) -> View:
    made = View()
    for each in members:
        made.entry(f"member.{each.kind}.{each.instance}", each, 1, 0.0)
    return made


STORE = member("weight_sync", "weight_sync", "h0", "z0")


@pytest.mark.parametrize(
    ("host", "zone", "expected"),
    [("h1", "a", ["r1", "r2"]), ("h2", "a", ["r2", "r1"]), ("h3", "", ["r3"]), ("h9", "c", []), ("h9", "", [])],
)
def test_this_hosts_come_before_those_of_the_zone_and_nobody_elsewhere_is_asked(
    host: str, zone: str, expected: list[str]
) -> None:
    starting = member("relay", "r0", "h1", "a", MemberState.MEMBER_STATE_STARTING)
    relays = [member("relay", "r1", "h1", "a"), member("relay", "r2", "h2", "a"), member("relay", "r3", "h3", "b")]
    found = near(view(STORE, starting, *relays), member("generation", "g", host, zone))
    assert [m.instance for m in found] == expected


def test_on_weight_syncs_own_host_nothing_is_nearer() -> None:
    assert not near(view(STORE, member("relay", "r", "h0", "z0")), member("generation", "g", "h0", "z0"))


def test_receivers_share_out_the_relays_of_their_zone() -> None:
    relays = view(STORE, *(member("relay", f"r{i}", f"h{i}", "a") for i in range(1, 4)))
    first = {near(relays, member("generation", f"g{i}", "h9", "a"))[0].instance for i in range(40)}
    assert first == {"r1", "r2", "r3"}
    gone = view(STORE, member("relay", "r1", "h1", "a"), member("relay", "r2", "h2", "a"))
    for i in range(40):
        own = member("generation", f"g{i}", "h9", "a")
        before = [m.instance for m in near(relays, own)]
        assert before[0] == "r3" or near(gone, own)[0].instance == before[0], "and keep theirs"
