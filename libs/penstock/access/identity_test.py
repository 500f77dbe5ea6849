"""What a kind shows opens one service to that kind, and the file by which it is known opens nothing."""

import json

import pytest

from penstock.access import KINDS, Callers, Identity, kind_of_uri

SERVICES = ("penstock.a.v1.A", "penstock.b.v1.B")
LEARNER, ROLLOUT = Identity("learner", "one-1"), Identity("rollout", "two-2")


def test_what_is_shown_to_one_service_is_taken_by_no_other() -> None:
    callers = Callers.of([LEARNER, ROLLOUT], SERVICES)
    first, second = SERVICES
    assert callers.kind(first, LEARNER.shown_to(first)) == "learner"
    assert callers.kind(second, ROLLOUT.shown_to(second)) == "rollout"
    assert callers.kind(second, LEARNER.shown_to(first)) is None
    assert callers.kind("penstock.c.v1.C", LEARNER.shown_to("penstock.c.v1.C")) is None
    assert callers.kind(first, LEARNER.secret) is None and callers.kind(first, "") is None


def test_the_callers_file_has_no_secret_in_it() -> None:
    callers = Callers.of([LEARNER], SERVICES)
    text = callers.text()
    assert LEARNER.secret not in text and all(LEARNER.shown_to(service) not in text for service in SERVICES)
    assert LEARNER.secret not in repr(LEARNER)
    (digest,) = json.loads(text)[SERVICES[0]].values()
    again = Callers.parsed(text)
    assert again.kind(SERVICES[0], LEARNER.shown_to(SERVICES[0])) == "learner"
    assert again.kind(SERVICES[0], digest) is None


def test_another_text_is_no_identity() -> None:
    assert Identity.parsed("learner:one-1\n") == LEARNER
    for other in ("", "learner", "learner:", "boss:one", "one", "a:b:c"):
        assert Identity.parsed(other) is None
    for bad in ("[]", '{"s": []}', '{"s": {"boss": "00"}}', "{"):
        with pytest.raises(ValueError):
            Callers.parsed(bad)


def test_a_uri_names_its_kind_by_its_last_part() -> None:
    for kind in KINDS:
        assert kind_of_uri(f"spiffe://penstock/{kind}") == kind
        assert kind_of_uri(f"spiffe://cluster.example/ns/rl/sa/{kind}") == kind
        assert kind_of_uri(f"https://penstock/{kind}") is None
    for other in ("spiffe://penstock/", "spiffe://learner", "spiffe://penstock/learner/x", "learner", "", "spiffe://["):
        assert kind_of_uri(other) is None
