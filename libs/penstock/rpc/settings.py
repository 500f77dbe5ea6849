"""Limits that both ends of a connection share, with the reason for each."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Transport:
    """Options of servers and channels.

    Attributes:
        max_message_bytes: largest message; streams of tensors use chunks of about 1 MiB (the fastest) regardless.
        keepalive_seconds: a silent connection is probed this often.
        ping_seconds: a probe without answer for this long means that the peer is gone. Without this option
            (`grpc.http2.ping_timeout_ms`) a black-holed peer took 60 s to notice whatever the keepalive timeout was.
        probes_idle: whether a connection without a call is probed too.
        own_connection: whether a channel shares no connection with others to the same address.
        reconnect_seconds: longest pause between attempts to reconnect; gRPC's own default is two minutes.
    """

    max_message_bytes: int = 32 * MIB
    keepalive_seconds: float = 10.0
    ping_seconds: float = 5.0
    probes_idle: bool = True
    reconnect_seconds: float = 1.0
    own_connection: bool = False

    def _common(self) -> list[tuple[str, int]]:
        return [
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.keepalive_time_ms", int(self.keepalive_seconds * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.ping_seconds * 1000)),
            ("grpc.http2.ping_timeout_ms", int(self.ping_seconds * 1000)),
            ("grpc.keepalive_permit_without_calls", int(self.probes_idle)),
            ("grpc.http2.max_pings_without_data", 0),
        ]

    def server_options(self) -> list[tuple[str, int]]:
        """A port is taken by one server only, and clients' probes are tolerated twice as often as ours are sent."""
        accepted = int(self.keepalive_seconds * 500)
        return [
            *self._common(),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", accepted),
            ("grpc.http2.min_ping_interval_without_data_ms", accepted),
        ]

    def channel_options(self) -> list[tuple[str, int]]:
        """Reconnection starts fast and stays fast: servers here restart within seconds."""
        pause = int(self.reconnect_seconds * 1000)
        return [
            *self._common(),
            ("grpc.initial_reconnect_backoff_ms", min(100, pause)),
            ("grpc.min_reconnect_backoff_ms", min(1000, pause)),
            ("grpc.max_reconnect_backoff_ms", pause),
            ("grpc.use_local_subchannel_pool", int(self.own_connection)),
        ]


FOREIGN = Transport(keepalive_seconds=330.0, probes_idle=False)
"""For channels to servers that are not ours. A stock gRPC server takes probes more often than every five minutes for an
attack and closes the connection ("Too many pings"), also in the middle of a call: a score that took a minute was lost.
Calls have deadlines, so a peer that is gone is noticed all the same."""
