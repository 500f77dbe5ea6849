"""Sends every attack to every method of a running server over real gRPC, and says what did not end as it must.

It must: a definite status in bounded time (OK only where the contract allows the request); never UNKNOWN, INTERNAL or
a lost connection; a text of bounded length that shows nothing of our code, paths or exceptions; and afterwards health
that still says SERVING.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from penstock.rpc import RpcError, Transport, channel, translated
from penstock.testing.hostile_messages.payloads import UNKNOWN_FIELD, Attack, attacks

MIB = 1 << 20
LONGEST_TEXT = 4096
CUT_OFF = "Internal error from Core"
"""What grpc.aio's client says, rarely, of a call that its server ended while it still wrote: not the server's word."""
CODES = grpc.StatusCode
# A stream that was not refused may stay open for as long as its deadline (watchers do): it is left after this time.
PATIENCE = 0.4
_DEFECTS = {CODES.UNKNOWN, CODES.INTERNAL, CODES.UNIMPLEMENTED, CODES.CANCELLED, CODES.DEADLINE_EXCEEDED}
_LEAK = re.compile(
    r"Traceback|\bFile \"|\.py\b|site-packages|object at 0x|<class|\[?Errno|"
    r"\b[A-Z]\w*(?:Error|Exception|Warning)\b|/(?:work|home|tmp|root|opt|usr|var|etc|dev|proc)/[^\s'\"]*"
)
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}


@dataclass
class Target:
    """A server under attack.

    opened: a channel to it. limit: bytes of its largest message. seconds: in which every call must end. heard: is told
    what methods answer.
    """

    opened: grpc.aio.Channel
    limit: int
    seconds: float
    findings: list[str] = field(default_factory=list)
    heard: Callable[[MethodDescriptor, bytes], None] = lambda method, answer: None


async def assault(
    address: str,
    service: ServiceDescriptor,
    seeds: Mapping[str, Message | Sequence[Message]],
    *,
    limit: int = Transport().max_message_bytes,
    seconds: float = 15.0,
) -> list[str]:
    """What is wrong with a server, one sentence each; empty if nothing is.

    Args:
        seeds: for each method whose request has fields, one or more valid requests to make the attacks from.
        limit: the server's largest message, in bytes.
        seconds: in which every call must end.

    Raises:
        KeyError: a method has no seed.
    """
    async with channel(address, transport=Transport(max_message_bytes=4 * limit)) as opened:
        target = Target(opened, limit, seconds)
        for method in service.methods:
            for good in _seeds(method, seeds):
                await _attack(target, method, good)
        await check_health(target, service.full_name)
    return target.findings


def _seeds(method: MethodDescriptor, seeds: Mapping[str, Message | Sequence[Message]]) -> Sequence[Message]:
    if method.name not in seeds and not method.input_type.fields:
        return (GetMessageClass(method.input_type)(),)
    found = seeds[method.name]
    return (found,) if isinstance(found, Message) else found


async def _attack(target: Target, method: MethodDescriptor, good: Message) -> None:
    for attack in _every(good, target.limit):
        for name, stream in _requests(method, good, attack):
            await judge(target, method, Attack(name, attack.payload, attack.must_refuse), stream)
    if method.client_streaming:
        await judge(target, method, Attack("a stream without a message", b"", False), [])
    bomb = Attack("a compressed message above the limit", _padded(good, target.limit + MIB), True)
    await judge(target, method, bomb, [bomb.payload], grpc.Compression.Gzip)


def _every(good: Message, limit: int) -> Iterator[Attack]:
    yield from attacks(good)
    yield Attack("a message above the limit", _padded(good, limit + MIB), True)


def _padded(good: Message, size: int) -> bytes:
    """A message with an unknown field of so many bytes: a valid one, were it shorter."""
    groups = [(size >> shift) & 0x7F for shift in range(0, 35, 7)]
    length = bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
    return good.SerializeToString() + UNKNOWN_FIELD + length + bytes(size)


def _requests(method: MethodDescriptor, good: Message, attack: Attack) -> Iterator[tuple[str, list[bytes]]]:
    yield attack.name, [attack.payload]
    if method.client_streaming:
        yield f"{attack.name}, second in the stream", [good.SerializeToString(), attack.payload]


async def judge(
    target: Target,
    method: MethodDescriptor,
    attack: Attack,
    requests: list[bytes],
    compression: grpc.Compression | None = None,
) -> None:
    """Sends one request, or a stream of them, and notes where it does not end as it must."""
    error = await _send(target, method, attack.must_refuse, requests, compression)
    while method.client_streaming and error is not None and error.message == CUT_OFF:
        error = await _send(target, method, attack.must_refuse, requests, compression)
    wrong = _wrong(error, attack, compression)
    if wrong:
        target.findings.append(f"{method.name}: {attack.name}: {wrong}")


async def _send(
    target: Target,
    method: MethodDescriptor,
    must_refuse: bool,
    requests: list[bytes],
    compression: grpc.Compression | None,
) -> RpcError | None:
    """The refusal; None if the call was answered, or is being answered."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): target.opened.unary_unary,
        (False, True): target.opened.unary_stream,
        (True, False): target.opened.stream_unary,
        (True, True): target.opened.stream_stream,
    }
    streaming = method.client_streaming
    call = kinds[streaming, method.server_streaming](path)(
        _stream(requests) if streaming else requests[0], timeout=target.seconds, compression=compression
    )
    try:
        with translated():
            if not method.server_streaming:
                target.heard(method, await call)
                return None
            async with asyncio.timeout(None if must_refuse else PATIENCE):
                async for answer in call:
                    target.heard(method, answer)
                    if must_refuse:
                        return None
    except RpcError as error:
        return error
    except TimeoutError:
        return None
    finally:
        call.cancel()
    return None


async def _stream(requests: list[bytes]) -> AsyncIterator[bytes]:
    for each in requests:
        yield each


def _wrong(error: RpcError | None, attack: Attack, compression: grpc.Compression | None) -> str:
    if error is None:
        return "was taken" if attack.must_refuse else ""
    defects = _DEFECTS if compression is None else _DEFECTS - {CODES.UNIMPLEMENTED}  # it may not speak gzip at all
    if error.code in defects or (error.code is CODES.UNAVAILABLE and error.retry_after is None):
        return f"ended as {error.code.name}: {error.message[:300]}"
    text = f"{error} {error.reason} {error.metadata}"
    if len(text) > LONGEST_TEXT:
        return f"its refusal is {len(text)} characters long"
    for found in _LEAK.finditer(text):
        echoed = found.group().encode() in attack.payload or found.group() in repr(attack.payload)
        if not echoed:  # as it was sent, or with its control characters shown by number
            return f"its refusal shows {found.group()!r}: {text[:300]}"
    return ""


async def check_health(target: Target, service: str) -> None:
    """Notes where health says anything but SERVING, of the server and of a service."""
    check: Any = target.opened.unary_unary("/grpc.health.v1.Health/Check")
    for name in ("", service):
        request = b"\x0a" + bytes([len(name)]) + name.encode() if name else b""
        try:
            with translated():
                answer = await check(request, timeout=target.seconds)
        except RpcError as error:
            target.findings.append(f"health of {name!r} afterwards: {error}")
            continue
        if answer != _SERVING:
            target.findings.append(f"health of {name!r} afterwards is not SERVING")
