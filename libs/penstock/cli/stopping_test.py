"""Ctrl-C reaches a coordinator that is away, and one that was killed after it heard it."""

import asyncio
import contextlib
from typing import Any

import grpc
import pytest

from penstock import rpc
from penstock.cli import screen


async def test_the_run_is_asked_to_stop_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "AGAIN_SECONDS", 0.0)
    answers, notes, over = ["away", "heard", "away", "heard"], list[str](), asyncio.Event()

    class Run:
        async def stop(self) -> None:
            if not answers:
                over.set()
            elif answers.pop(0) == "away":
                raise rpc.RpcError(grpc.StatusCode.UNAVAILABLE, "connection refused")

    run: Any = Run()
    asking = asyncio.create_task(screen.ask_to_stop(run, notes.append))
    async with asyncio.timeout(60):
        await over.wait()
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    assert len(notes) == 2 and "connection refused" in notes[0]
