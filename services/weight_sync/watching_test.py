"""What receivers are told: the version that they should hold, now and whenever it changes."""

from typing import Any

from penstock import rpc
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.server_testing import (
    CODES,
    manifest,
    messages,
    next_step,
    push,
    refusal,
    stream_refusal,
    watching,
    whole,
)


async def test_a_watcher_hears_of_ready_versions_alone(stub: Any) -> None:
    async with watching(stub) as heard:
        m = manifest(1)
        await rpc.call(stub.BeginVersion(pb.BeginVersionRequest(manifest=m)))
        await rpc.call(stub.PushTensors(messages(m.version, whole(1))))
        listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
        assert [v.state for v in listed.versions] == [pb.VERSION_STATE_STAGING] and heard.empty()
        await rpc.call(stub.CommitVersion(pb.CommitVersionRequest(version=m.version)))
        assert await next_step(heard) == 1
        await push(stub, 2)
        assert await next_step(heard) == 2
    async with watching(stub) as late:
        assert await next_step(late) == 2


async def test_a_hold_keeps_watchers_at_its_step_until_it_is_released(stub: Any) -> None:
    await push(stub, 1)
    hold = pb.HoldVersionsRequest(holder="evaluation", step=1)
    hold.lease.FromSeconds(60)
    await rpc.call(stub.HoldVersions(hold))
    async with watching(stub) as heard:
        assert await next_step(heard) == 1
        second = await push(stub, 2)
        ahead = stub.WatchVersions(pb.WatchVersionsRequest(receiver="ahead", held=second), timeout=0.3)
        assert (await stream_refusal(ahead)).code == CODES.DEADLINE_EXCEEDED  # nobody is moved back by a hold
        async with watching(stub, "other") as other:
            assert await next_step(other) == 1  # asked after version 2 was READY
        assert heard.empty()
        await rpc.call(stub.ReleaseHold(pb.ReleaseHoldRequest(holder="evaluation")))
        assert await next_step(heard) == 2


async def test_a_held_version_outlives_the_bound_on_versions(stub: Any) -> None:
    version = await push(stub, 1)
    hold = pb.HoldVersionsRequest(holder="evaluation", step=1)
    hold.lease.FromSeconds(60)
    await rpc.call(stub.HoldVersions(hold))
    for step in range(2, 6):
        await push(stub, step)
    async with watching(stub) as heard:
        assert await next_step(heard) == 1
    await rpc.call(stub.GetManifest(pb.GetManifestRequest(version=version)))
    await rpc.call(stub.ReleaseHold(pb.ReleaseHoldRequest(holder="evaluation")))
    await push(stub, 6)
    assert (await refusal(stub.GetManifest(pb.GetManifestRequest(version=version)))).code == CODES.NOT_FOUND


async def test_watchers_go_back_with_a_rollback_and_on_with_a_promotion(stub: Any) -> None:
    first = await push(stub, 1)
    await push(stub, 2)

    async def decide(step: int, decision: pb.Decision) -> int:
        answer = await rpc.call(stub.DecideVersion(pb.DecideVersionRequest(step=step, decision=decision)))
        return int(answer.served.step)

    async with watching(stub) as heard:
        assert await next_step(heard) == 2
        assert await decide(1, pb.DECISION_ROLL_BACK) == 1
        assert await next_step(heard) == 1
        third = await push(stub, 3)
        listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
        assert listed.served == first and heard.empty()
        assert [i.state for i in listed.versions][0] == pb.VERSION_STATE_VERIFIED
        assert await decide(3, pb.DECISION_PROMOTE) == 3
        assert await next_step(heard) == 3
        assert await decide(3, pb.DECISION_REJECT) == 1
        assert await next_step(heard) == 1
    held = stub.WatchVersions(pb.WatchVersionsRequest(receiver="h", held=third))
    assert (await anext(aiter(held))).version == first  # it holds what was rejected while it was away
    held.cancel()
    error = await refusal(stub.DecideVersion(pb.DecideVersionRequest(step=1, decision=pb.DECISION_REJECT)))
    assert error.code == CODES.FAILED_PRECONDITION and "nothing would be left" in error.message
    error = await refusal(stub.DecideVersion(pb.DecideVersionRequest(step=9, decision=pb.DECISION_PROMOTE)))
    assert (error.code, error.reason) == (CODES.NOT_FOUND, "NO_VERSION")
    assert (await refusal(stub.DecideVersion(pb.DecideVersionRequest(step=1)))).code == CODES.INVALID_ARGUMENT


async def test_a_hold_that_is_not_renewed_ends_by_itself(stub: Any) -> None:
    await push(stub, 1)
    await push(stub, 2)
    hold = pb.HoldVersionsRequest(holder="dead", step=1)
    hold.lease.FromMilliseconds(300)
    await rpc.call(stub.HoldVersions(hold))
    async with watching(stub) as heard:
        assert await next_step(heard) == 1
        assert await next_step(heard) == 2


async def test_what_receivers_report_is_listed(stub: Any) -> None:
    version = await push(stub, 1)
    for name, pause in (("g0", 0.2), ("g1", 0.4)):
        report = pb.ReportAppliedRequest(receiver=name, version=version)
        report.pause.FromNanoseconds(int(pause * 1e9))
        await rpc.call(stub.ReportApplied(report))
    await rpc.call(stub.ReportApplied(pb.ReportAppliedRequest(receiver="g2", version=version, error="OSError: x")))
    listed = await rpc.call(stub.ListVersions(pb.ListVersionsRequest()))
    assert listed.applied == 2 and listed.pause_median.ToMilliseconds() == 300
    assert {r.name: (r.version.step, r.error) for r in listed.receivers} == {
        "g0": (1, ""),
        "g1": (1, ""),
        "g2": (0, "OSError: x"),
    }
