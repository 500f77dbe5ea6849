"""The sentence of ExplainStall: real waits only, unreachable services first, from the learner down."""

from penstock.coordinator.v1 import coordinator_pb2 as pb
from services.coordinator.reporting.explaining import explain

NOW = 1_000.0


def service(name: str, *waits: tuple[str, float, bool], unreachable: str = "") -> pb.ServiceWaits:
    """Waits as (what, for how many seconds, idle)."""
    made = pb.ServiceWaits(service=name, unreachable=unreachable)
    for what, seconds, idle in waits:
        wait = made.waits.add(what=what, on="nats", idle=idle)
        wait.since.FromNanoseconds(int((NOW - seconds) * 1e9))
    return made


def test_the_oldest_real_wait_of_every_service_from_the_learner_down() -> None:
    said = explain(
        [service("rollout-0", ("scores", 3, False), ("tokens", 9, False)), service("learner", ("groups", 20, False))],
        NOW,
    )
    assert said == "learner waits for groups (on nats, 20 s); rollout-0 waits for tokens (on nats, 9 s)"


def test_a_service_that_listens_explains_nothing_whatever_its_words() -> None:
    assert explain([service("weight_sync", ("groups", 900, True))], NOW) == "nothing waits: every service is working"
    said = explain([service("weight_sync", ("a new version", 900, True), ("messages", 5, False))], NOW)
    assert said == "weight_sync waits for messages (on nats, 5 s)"


def test_who_does_not_answer_is_named_first() -> None:
    said = explain(
        [service("learner", ("groups", 2, False)), service("generation-0", unreachable="refused\nat x")], NOW
    )
    assert said == "generation-0 does not answer (refused); learner waits for groups (on nats, 2 s)"
