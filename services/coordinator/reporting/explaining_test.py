"""The sentence of ExplainStall: real waits only, unreachable services first, from the learner down."""

from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.telemetry.waits import ITSELF
from penstock.trajectory.v1 import trajectory_pb2
from services.coordinator.reporting.explaining import computes, dead_groups, explain

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


def test_what_scores_and_plays_is_told_beside_the_longest_wait() -> None:
    """A circle of waits is explained by none of them."""
    rollout = service("rollout-0", ("tokens", 60, False))
    for what, on, seconds in (
        ("scores", "reward b:1", 1),
        ("scores", "reward b:1", 4),
        ("steps", "environment a:1", 2),
    ):
        rollout.waits.add(what=what, on=on).since.FromNanoseconds(int((NOW - seconds) * 1e9))
    said = explain([rollout], NOW)
    assert said == (
        "rollout-0 waits for tokens (on nats, 60 s); rollout-0 waits for scores (on reward b:1, 4 s); "
        "rollout-0 waits for steps (on environment a:1, 2 s)"
    )
    assert explain([service("rollout-0")], NOW) == "nothing waits: every service is working"


def test_a_service_that_listens_explains_nothing_whatever_its_words() -> None:
    assert explain([service("weight_sync", ("groups", 900, True))], NOW) == "nothing waits: every service is working"
    said = explain([service("weight_sync", ("a new version", 900, True), ("messages", 5, False))], NOW)
    assert said == "weight_sync waits for messages (on nats, 5 s)"


def test_who_does_not_answer_is_named_first() -> None:
    said = explain(
        [service("learner", ("groups", 2, False)), service("generation-0", unreachable="refused\nat x")], NOW
    )
    assert said == "generation-0 does not answer (refused); learner waits for groups (on nats, 2 s)"


def test_who_computes_is_said_and_is_no_stall_within_its_time() -> None:
    learner = service("learner")
    work = learner.waits.add(what="step 2 (usually 41 s)", on=ITSELF)
    work.since.FromNanoseconds(int((NOW - 26) * 1e9))
    work.deadline.FromNanoseconds(int((NOW + 400) * 1e9))
    waits = [service("rollout-0", ("tokens", 9, False)), learner]
    said = explain(waits, NOW)
    assert said == "learner computes step 2 (usually 41 s) since 26 s; rollout-0 waits for tokens (on nats, 9 s)"
    assert computes(waits, NOW) and not computes(waits, NOW + 401) and not computes(waits[:1], NOW)


def test_groups_that_teach_nothing_are_told_when_they_are_most() -> None:
    def reports(*shares: float) -> dict[int, trajectory_pb2.StepReport]:
        return {
            step: trajectory_pb2.StepReport(step=step, metrics={"rl.groups.dead": share})
            for step, share in enumerate(shares, 1)
        }

    assert dead_groups({}) == dead_groups(reports(0.5, 0.5)) == dead_groups(reports(*[1.0] * 9, *[0.4] * 10)) == ""
    assert dead_groups(reports(0.0, *[0.8] * 9, 0.9)) == (
        "the tasks are too easy or too hard: 81% of the groups of the last 10 steps taught nothing"
    )
    assert dead_groups({1: trajectory_pb2.StepReport(step=1, metrics={"rl.loss": 1.0})}) == ""
