"""An agent in a worker process calls a gateway whose certificate the run's own authority has signed."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import openai
import pytest

from penstock.rpc import Security
from penstock.sdk import Endpoint, Scored, Task, agent
from penstock.sdk.agents import AgentFailed
from penstock.sdk.hosting.isolation import load_agent
from penstock.sdk.hosting.trust import trusting
from penstock.sdk.hosting.worker_pool import Workers
from penstock.testing.certificates import issue

HERE = "penstock.sdk.hosting.trust_test"


@agent(client="endpoint")
async def by_both(task: Task, endpoint: Endpoint) -> Scored:
    """Python's own client, and OpenAI's."""
    asked = [{"role": "user", "content": "a"}]
    first = await endpoint.chat(asked)
    async with openai.AsyncOpenAI(base_url=endpoint.base_url, api_key=endpoint.key, max_retries=0) as client:
        second = await client.chat.completions.create(model="m", messages=asked)  # type: ignore[arg-type]
    return Scored(1.0, answer=f"{first['content']} {second.choices[0].message.content}")


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says hello to whatever it is asked."""
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    about = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    body = json.dumps(about).encode()
    lines = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
    writer.write(lines.encode() + b"\r\n\r\n" + body)
    writer.close()


async def test_agents_believe_the_runs_authority(tmp_path: Path) -> None:
    authority, _ = issue(tmp_path, "ca")
    certificate, key = issue(tmp_path, "gateway", "ca")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    endpoint = Endpoint(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "key")
    async with server:
        with trusting(Security.of_files(authority=authority)) as variables:
            async with Workers(1, variables=variables) as workers:
                host = await load_agent(workers, f"{HERE}:by_both", name="by_both")
                result = await host.run(Task(), endpoint, 30)
        assert isinstance(result, Scored) and result.answer == "hello hello"
        async with Workers(1) as workers:
            host = await load_agent(workers, f"{HERE}:by_both", name="by_both")
            with pytest.raises(AgentFailed, match="(?i)certificate"):
                await host.run(Task(), endpoint, 30)


@pytest.mark.parametrize("where", ["a file", "a folder", "nowhere"])
def test_public_authorities_are_believed_too_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Python names a file of them, a folder, or nothing: then the ones that come with clients are taken."""
    public, _ = issue(tmp_path, "public")
    own, _ = issue(tmp_path, "own")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "0a1b.0").symlink_to(public)
    named: dict[str, Any] = {"cafile": None, "capath": None}
    if where != "nowhere":
        named["cafile" if where == "a file" else "capath"] = str(public if where == "a file" else folder)
    usual = ssl.get_default_verify_paths()._replace(**named)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: usual)
    with trusting(Security.of_files(authority=own)) as variables:
        text = Path(variables["SSL_CERT_FILE"]).read_text()
    assert own.read_text() in text
    if where == "nowhere":
        assert text.count("BEGIN CERTIFICATE") > 50
    else:
        assert public.read_text() in text and text.count("BEGIN CERTIFICATE") == 2


def test_a_run_without_an_authority_changes_nothing() -> None:
    with trusting(Security()) as variables:
        assert variables == {}
