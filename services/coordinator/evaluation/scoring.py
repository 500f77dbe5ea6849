"""What the learner says of tokens against what engines say that hold a version on trial: the probes of its manifest."""

import logging
from typing import Any

import grpc

from penstock import rpc
from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.generation.v1.generation_pb2 import ScoreTokensRequest
from penstock.trajectories import from_float32s
from services.coordinator.evaluation.listing import ask
from services.coordinator.evaluation.verdict import Found
from services.coordinator.state.following import TICK_SECONDS, Following
from services.coordinator.state.peers import Peers

logger = logging.getLogger(__name__)
AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # a full engine is no fault of the version's
)


async def scored(following: Following, peers: Peers, version: PolicyVersion, found: Found) -> None:
    """Asks all engines that hold the version about the tokens that the learner says something of."""
    probes = (await peers.manifest(version)).probes
    while True:
        seen = following.changes
        try:
            holders = [r.name for r in (await ask(peers)).receivers if r.canary and r.version == version]
            gaps = [gap for name in holders for gap in await _gaps(peers, name, version, probes)]
            if holders:
                found.held, found.gaps = True, gaps if probes else None
                return
        except rpc.RpcError as error:
            if error.code not in AGAIN:
                found.held, found.failure = True, f"it cannot score: {error}"
                return
            logger.info("a canary is asked again: %s", error)
        await following.changed(seen, TICK_SECONDS)


async def _gaps(peers: Peers, name: str, version: PolicyVersion, probes: Any) -> list[float]:
    """What the learner says minus what an engine says of each token. Raises rpc.RpcError."""
    gaps = list[float]()
    for number, probe in enumerate(probes):
        if 1 not in probe.mask:
            continue
        first = probe.mask.find(1)
        request = ScoreTokensRequest(
            request_id=f"trial-{version.step}-{number}",
            tokens=probe.tokens,
            token_count=probe.token_count,
            first=first,
        )
        answer = await peers.score(name, request)
        if (answer.version.epoch, answer.version.step) != (version.epoch, version.step):
            raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, f"{name} holds version {answer.version.step} now")
        own, engines = from_float32s(probe.logprobs)[first:], from_float32s(answer.logprobs)
        if len(engines) != len(own):
            said = f"{name} gives {len(engines)} log-probs for {len(own)} tokens"
            raise rpc.RpcError(grpc.StatusCode.INTERNAL, said)
        masked = [at for at, each in enumerate(probe.mask[first:]) if each]
        gaps += [float(own[at]) - float(engines[at]) for at in masked]
    return gaps
