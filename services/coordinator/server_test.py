"""CoordinatorService over real gRPC: what it shows is what the streams hold, and bad ids get the right status."""

import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from penstock import rpc
from penstock.bus import Bus, RunNames
from penstock.chat import ChatTokenizer
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.coordinator.v1 import coordinator_pb2_grpc
from penstock.showing.over import RunOver
from penstock.trajectories import failed
from penstock.trajectory.v1 import trajectory_pb2
from services.coordinator.server import CoordinatorServicer
from services.coordinator.testing.run import (
    SIZE,
    N,
    drawn,
    make_coordinator,
    make_recipe,
    play_learner,
    play_worker,
    publish,
    running,
    served,
)

STEPS = 3
CODES = grpc.StatusCode


@pytest_asyncio.fixture
async def stub(
    bus: Bus, names: RunNames, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> AsyncIterator[Any]:
    """A run of STEPS finished steps in which group 1 was filtered."""
    recipe = make_recipe(folder, algorithm__steps=STEPS)
    coordinator = make_coordinator(bus, names, recipe, tmp_path, chat)
    async with running(coordinator.run(), play_worker(bus, names, "train")):
        await play_learner(bus, names, STEPS, fate=lambda n: "filtered" if n == 1 else "trained")
        seen = -1
        while not coordinator.state.over or len(coordinator.log.recent) < STEPS * N * SIZE:
            seen = await coordinator.following.changed(seen, 0.1)
        adder = coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server
        async with served(adder, CoordinatorServicer(coordinator)) as channel:
            yield coordinator_pb2_grpc.CoordinatorServiceStub(channel)


async def refused(call: Any) -> grpc.StatusCode:
    with pytest.raises(rpc.RpcError) as error:
        await rpc.call(call)
    return error.value.code


async def test_the_run_adds_up_and_is_watched(stub: Any) -> None:
    run = (await rpc.call(stub.GetRun(pb.GetRunRequest()))).run
    counts = run.samples
    assert counts.admitted == counts.trained + counts.filtered + counts.expired + counts.failed + counts.in_flight
    assert (run.state, run.step, run.max_steps, counts.filtered) == (pb.RUN_STATE_DONE, STEPS, STEPS, SIZE)
    assert run.HasField("started_at") and run.groups_in_flight == 0
    async for told in stub.WatchRun(pb.WatchRunRequest()):
        assert told.run.step == STEPS
        break


async def test_steps_are_listed_page_by_page(stub: Any) -> None:
    whole = await rpc.call(stub.ListSteps(pb.ListStepsRequest()))
    assert [s.step for s in whole.steps] == [1, 2, 3] and not whole.more
    first = await rpc.call(stub.ListSteps(pb.ListStepsRequest(page_size=2)))
    rest = await rpc.call(stub.ListSteps(pb.ListStepsRequest(after=2, page_size=2)))
    assert first.more and not rest.more and [*first.steps, *rest.steps] == list(whole.steps)
    assert await refused(stub.ListSteps(pb.ListStepsRequest(page_size=2001))) == CODES.INVALID_ARGUMENT


async def test_samples_of_every_end_are_listed_and_found(stub: Any, bus: Bus, names: RunNames) -> None:
    """A failed sample and a demonstration have no versions: they must not spoil the list."""
    task = trajectory_pb2.GroupTask(run="r1", group="g00000900", kind=trajectory_pb2.TASK_KIND_TRAIN, group_size=3)
    bare = drawn(task, 1)
    del bare.version_segments[:]
    await publish(bus, names, failed(task, 0, "model", trajectory_pb2.Outcome.FAILURE_REWARD, "no answer"))
    await publish(bus, names, bare)
    await publish(bus, names, drawn(task, 2, reward=0.0, step=7))
    found = [(await rpc.call(stub.GetSample(pb.GetSampleRequest(group="g00000900", index=i)))).sample for i in range(3)]
    assert found[0].outcome.failure == trajectory_pb2.Outcome.FAILURE_REWARD and not found[0].HasField("reward")
    assert list(found[1].pieces) == [] and found[1].completion == "12"
    assert (found[2].pieces[0].text, found[2].newest_step, found[2].reward) == ("12", 7, 0.0)
    assert found[2].pieces[0].mean_logprob == pytest.approx(-0.2)
    listed = await rpc.call(stub.ListSamples(pb.ListSamplesRequest(page_size=500)))
    assert len(listed.samples) >= STEPS * N * SIZE
    only = await rpc.call(stub.ListSamples(pb.ListSamplesRequest(kind=trajectory_pb2.TASK_KIND_EVAL)))
    assert list(only.samples) == []


async def test_lineage_goes_both_ways(stub: Any) -> None:
    of_step = await rpc.call(stub.GetLineage(pb.GetLineageRequest(step=1)))
    entry = of_step.samples[0]
    of_sample = await rpc.call(stub.GetLineage(pb.GetLineageRequest(sample=f"{entry.group}/{entry.index}")))
    assert (of_sample.step, of_sample.fate, of_sample.samples[0]) == (1, "TRAINED", entry)
    filtered = await rpc.call(stub.GetLineage(pb.GetLineageRequest(sample="g00000001/0")))
    assert (filtered.fate, filtered.detail) == ("FILTERED", "zero_variance") and not filtered.HasField("step")


async def test_bad_ids_get_the_right_status(stub: Any) -> None:
    for sample in ("", "g1", "g00000000", "g00000000/", "g00000000/99", "g00000000/-1", "g00000000/²", "nope/0", "/"):
        assert await refused(stub.GetLineage(pb.GetLineageRequest(sample=sample))) == CODES.NOT_FOUND
    for step in (0, STEPS + 1, 2**63):
        assert await refused(stub.GetLineage(pb.GetLineageRequest(step=step))) == CODES.NOT_FOUND
    assert await refused(stub.GetLineage(pb.GetLineageRequest())) == CODES.INVALID_ARGUMENT
    assert await refused(stub.GetSample(pb.GetSampleRequest(group="g00000000", index=99))) == CODES.NOT_FOUND
    for group in ("", "a.b", "*", ">", "g" * 65, "a b"):
        assert await refused(stub.GetSample(pb.GetSampleRequest(group=group))) == CODES.INVALID_ARGUMENT
    assert await refused(stub.ListSamples(pb.ListSamplesRequest(page_size=501))) == CODES.INVALID_ARGUMENT


async def test_pause_and_resume_change_nothing_in_a_run_that_is_over(stub: Any, bus: Bus, names: RunNames) -> None:
    await rpc.call(stub.PauseRun(pb.PauseRunRequest()))
    await rpc.call(stub.ResumeRun(pb.ResumeRunRequest()))
    assert (await rpc.call(stub.GetRun(pb.GetRunRequest()))).run.state == pb.RUN_STATE_DONE
    answer = await rpc.call(stub.ExplainStall(pb.ExplainStallRequest()))
    assert answer.explanation == "nothing waits: every service is working"


async def test_what_a_run_that_is_over_shows_is_what_its_coordinator_showed_last(
    stub: Any, bus: Bus, folder: pathlib.Path, tmp_path: pathlib.Path, chat: ChatTokenizer
) -> None:
    recipe, summary = make_recipe(folder, algorithm__steps=STEPS), json.loads((tmp_path / "summary.json").read_text())
    adder = coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server
    async with served(adder, await RunOver.of(bus, recipe, summary, chat)) as channel:
        over = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        was, now = [(await rpc.call(s.GetRun(pb.GetRunRequest()))).run for s in (stub, over)]
        for name in ("state", "reason", "step", "max_steps", "samples", "evaluations", "alerts", "started_at"):
            assert getattr(was, name) == getattr(now, name), name
        assert {name: was.metrics[name] for name in now.metrics} == dict(now.metrics)
        steps, kinds = pb.ListStepsRequest(), pb.ListSamplesRequest(page_size=500)
        assert await rpc.call(over.ListSteps(steps)) == await rpc.call(stub.ListSteps(steps))
        samples = await rpc.call(over.ListSamples(kinds))
        assert samples == await rpc.call(stub.ListSamples(kinds)) and samples.samples
        for sample in samples.samples:
            assert "".join(turn.text for turn in sample.turns) == sample.prompt + sample.completion
            asked = pb.GetLineageRequest(sample=f"{sample.group}/{sample.index}")
            if not sample.group.startswith("e"):
                assert await rpc.call(over.GetLineage(asked)) == await rpc.call(stub.GetLineage(asked))
        assert "done at step 3 of 3" in (await rpc.call(over.ExplainStall(pb.ExplainStallRequest()))).explanation
        for change in (over.PauseRun(pb.PauseRunRequest()), over.StopRun(pb.StopRunRequest())):
            assert await refused(change) == CODES.FAILED_PRECONDITION
