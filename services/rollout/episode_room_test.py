"""Episodes and demonstrations that have too little room, or cannot be rendered: typed ends, no token too many."""

import pytest

from penstock.chat import ChatTokenizer
from penstock.datasets import tokenise
from penstock.recipes import Longest
from penstock.testing.fake_engine import FakeEngine
from penstock.trajectories import check_trajectory
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.rollout.episode import play
from services.rollout.episode_testing import (
    COMPLETED,
    FAILED,
    ROOMY,
    TRUNCATED,
    encoded,
    soon,
    task,
    tools,
    trained,
)


async def test_a_demonstration_that_cannot_be_rendered_is_invalid(chat: ChatTokenizer) -> None:
    made = pb.GroupTask(run="r1", group="g00000000", kind=pb.TASK_KIND_TRAIN, group_size=2)
    good = made.demonstration.demonstrations.add()
    good.messages.add(role="user", content="ba")
    good.messages.add(role="assistant", content="ab")
    made.demonstration.demonstrations.add().messages.add(role="user", content="ba")
    t = tokenise(chat, "model", made, 0, ROOMY)
    check_trajectory(t)
    assert chat.text(trained(t)) == "ab" and not t.HasField("reward")
    for index in (1, 2):
        bad = tokenise(chat, "model", made, index, ROOMY)
        assert bad.outcome.failure == pb.Outcome.FAILURE_INVALID


def length(chat: ChatTokenizer) -> int:
    """Tokens of the prompt of `task`."""
    return len(chat.render(task().rollout.task.messages))


@pytest.mark.parametrize("cut", [False, True])
async def test_a_prompt_that_leaves_too_little_room_is_invalid_or_its_answer_is_cut(
    chat: ChatTokenizer, environment_address: str, cut: bool
) -> None:
    fake = FakeEngine(answer=lambda prompt: encoded(chat, "ab"))
    longest = Longest(length(chat) + 5, "learner.micro_batch_tokens", cut)
    async with tools(chat, fake, environment_address, longest=longest) as with_tools:
        t = await play(with_tools, task(max_tokens=24), 0, soon())
    if cut:
        assert t.outcome.status == COMPLETED and fake.requests[0].sampling.max_tokens == 5
    else:
        assert t.outcome.failure == pb.Outcome.FAILURE_INVALID and not fake.requests
        assert f"are more than learner.micro_batch_tokens ({longest.tokens}) holds" in t.outcome.detail


@pytest.mark.parametrize("cut", [False, True])
async def test_a_prompt_without_any_room_is_invalid(chat: ChatTokenizer, environment_address: str, cut: bool) -> None:
    longest = Longest(length(chat), "generation.max_context", cut)
    for environment, row in (("", "{}"), ("guess_number", '{"low": 60}')):
        async with tools(chat, FakeEngine(), environment_address, environment=environment, longest=longest) as driven:
            t = await play(driven, task(environment or "brevity", row=row), 0, soon())
        assert t.outcome.failure == pb.Outcome.FAILURE_INVALID, t.outcome.detail


@pytest.mark.parametrize("room", range(1, 40, 7))
async def test_no_episode_is_longer_than_what_is_bound(
    chat: ChatTokenizer, environment_address: str, room: int
) -> None:
    fake = FakeEngine(answer=lambda prompt: encoded(chat, "1"))
    start = FakeEngine(answer=lambda prompt: encoded(chat, "1"))
    made = task("guess_number", row='{"low": 60}', max_tokens=400)
    async with tools(chat, start, environment_address, environment="guess_number") as driven:
        free = await play(driven, made, 0, soon())
    longest = Longest(len(start.prompts[0]) + room, "generation.max_context", cut=False)
    async with tools(chat, fake, environment_address, environment="guess_number", longest=longest) as driven:
        t = await play(driven, made, 0, soon())
    asked = [len(p) + r.sampling.max_tokens for p, r in zip(fake.prompts, fake.requests, strict=True)]
    assert max(asked) <= longest.tokens < free.token_count
    assert t.outcome.status in (TRUNCATED, FAILED) and t.outcome.failure != pb.Outcome.FAILURE_GENERATION


@pytest.mark.parametrize("cut", [False, True])
async def test_a_demonstration_that_is_too_long_is_invalid_or_loses_its_end(chat: ChatTokenizer, cut: bool) -> None:
    made = pb.GroupTask(run="r1", group="g00000000", kind=pb.TASK_KIND_TRAIN, group_size=1)
    shown = made.demonstration.demonstrations.add()
    shown.messages.add(role="user", content="ba")
    shown.messages.add(role="assistant", content="abcabcabcabc")
    whole = tokenise(chat, "model", made, 0, ROOMY)
    t = tokenise(chat, "model", made, 0, Longest(whole.token_count - 3, "learner.micro_batch_tokens", cut))
    if cut:
        assert t.outcome.status == TRUNCATED and t.token_count == whole.token_count - 3
        check_trajectory(t)
        assert trained(t) == trained(whole)[:-3]
    else:
        assert t.outcome.failure == pb.Outcome.FAILURE_INVALID and "learner.micro_batch_tokens" in t.outcome.detail
