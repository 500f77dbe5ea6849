"""Connections that ask nothing, certificates that change, and callers that leave before their session has begun."""

from __future__ import annotations

import asyncio
import pathlib
import secrets
import ssl

import pytest

from penstock.chat import ChatTokenizer
from penstock.rpc import Security
from penstock.testing.certificates import issue
from penstock.testing.fake_engine import FakeEngine, Tokens
from penstock.trajectory.v1 import trajectory_pb2
from services.gateway import http
from services.gateway.app import app
from services.gateway.errors import KeyUnknown
from services.gateway.run_testing import door, task
from services.gateway.sessions import Sessions

STOP = trajectory_pb2.FINISH_REASON_STOP
ASKED = {"model": "m", "messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HT", b"GET /health HTTP/1.1\r\nhost: h\r\n\r\nGET"])
async def test_a_connection_that_asks_nothing_is_closed(
    sent: bytes, chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ASKS_SECONDS", 0.3)
    async with door(chat, FakeEngine()) as gateway:
        host, _, port = gateway.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        said = await asyncio.wait_for(reader.read(), 10)
        assert (b"200 OK" in said) == sent.startswith(b"GET")
        writer.close()


async def test_an_answer_may_take_longer(chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ASKS_SECONDS", 0.1)
    engine, held = FakeEngine(), asyncio.Event()
    async with door(chat, engine) as gateway:
        engine.script = [[held, Tokens(gateway.says("ab"), finish=STOP)]]
        answer = asyncio.create_task(gateway.post("/v1/chat/completions", ASKED, gateway.open()))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(answer), 0.5)
        held.set()
        assert (await answer).status == 200


async def test_a_new_certificate_is_shown_to_who_comes_then(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "LOOK_SECONDS", 0.05)
    certificate, key = issue(tmp_path, "gateway")

    async def shown(port: str) -> bytes:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", int(port), ssl=context)
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return found

    security = Security.of_files(certificate=certificate, key=key)
    async with http.serving(app(Sessions({})), "127.0.0.1:0", security) as (scheme, at):
        port = at.rpartition(":")[2]
        first = await shown(port)
        whole = certificate.read_text()
        certificate.write_text(whole[: len(whole) // 2])  # being written
        await asyncio.sleep(0.3)  # in which it is looked at, more than once
        assert await shown(port) == first
        certificate.write_text(whole)
        assert scheme == "https" and first == ssl.PEM_cert_to_DER_cert(certificate.read_text())
        issue(tmp_path, "gateway")
        async with asyncio.timeout(10):
            while await shown(port) == first:
                await asyncio.sleep(0.05)
        assert await shown(port) == ssl.PEM_cert_to_DER_cert(certificate.read_text())


async def test_a_caller_that_leaves_before_its_session_has_begun_leaves_none(chat: ChatTokenizer) -> None:
    engine, held = FakeEngine(), asyncio.Event()
    async with door(chat, engine) as gateway:
        engine.script = [[held, Tokens(gateway.says("a"), finish=STOP)]] * 2
        key = secrets.token_urlsafe(32)
        first, second = (asyncio.create_task(gateway.sessions.begin(key, task(), 0, 60.0)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert gateway.sessions.of(key), "another waits for the same"
        second.cancel()
        await asyncio.wait([second])
        with pytest.raises(KeyUnknown):
            gateway.sessions.of(key)
        held.set()
        engine.script = [[Tokens(gateway.says("a"), finish=STOP)]]
        await gateway.sessions.begin(key, task(), 0, 60.0)
        assert gateway.sessions.of(key), "its caller asks again, for the same sample"


async def test_a_key_of_one_request_is_not_that_of_another(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    async with door(chat, engine) as gateway:
        engine.answer = lambda prompt: gateway.says("ab")
        key = gateway.open()
        first = await gateway.post("/v1/chat/completions", ASKED, key, idempotency_key="k")
        again = await gateway.post("/v1/chat/completions", ASKED, key, idempotency_key="k")
        assert first.body["id"] == again.body["id"], "the very answer"
        other = {**ASKED, "messages": [{"role": "user", "content": "b"}]}
        refused = await gateway.post("/v1/chat/completions", other, key, idempotency_key="k")
    assert refused.status == 400 and "that of another request" in refused.error["message"]


async def test_a_stop_text_that_was_drawn_is_not_said_twice(chat: ChatTokenizer) -> None:
    engine = FakeEngine()
    async with door(chat, engine) as gateway:
        key = gateway.open()
        engine.script = [[Tokens(chat.plain("ab;"), finish=STOP)], [Tokens(gateway.says("d"), finish=STOP)]]
        first = await gateway.post("/v1/completions", {"prompt": "x", "stop": ";"}, key)
        said = first.body["choices"][0]["text"]
        await gateway.post("/v1/completions", {"prompt": f"x{said};c"}, key)
        closed = await gateway.closed(key)
    assert said == "ab" and engine.prompts[1] == chat.plain("xab;c") and len(closed.contexts) == 1
