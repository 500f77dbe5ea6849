"""`penstock.gateway.v1.GatewayService`: the rollout's side of the sessions."""

from __future__ import annotations

from typing import Any

from penstock import rpc
from penstock.gateway.v1 import gateway_pb2 as pb
from penstock.gateway.v1 import gateway_pb2_grpc
from penstock.replicas.engines import GenerationFailed
from services.gateway.sessions import Sessions


class GatewayService(gateway_pb2_grpc.GatewayServiceServicer):
    """url: where the HTTP side is."""

    def __init__(self, sessions: Sessions, url: str) -> None:
        self._sessions, self._url = sessions, url

    async def OpenSession(self, request: pb.OpenSessionRequest, context: Any) -> pb.OpenSessionResponse:
        seconds = request.lifetime.ToNanoseconds() / 1e9
        try:
            await self._sessions.begin(request.key, request.task, request.index, seconds)
        except GenerationFailed as error:
            raise rpc.failed_precondition(str(error), reason="GENERATION_FAILED") from error
        return pb.OpenSessionResponse(url=self._url)

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Any) -> pb.CloseSessionResponse:
        return await self._sessions.close(request.key)
