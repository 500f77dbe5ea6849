"""Certificates that are renewed, that are wrong, and that end."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from penstock.reward.v1 import reward_pb2_grpc
from penstock.rpc import Certificates, Security, Server, call, channel
from penstock.rpc.conftest import Misbehaving, request
from penstock.rpc.errors import Unavailable
from penstock.rpc.expiry import ends_at
from penstock.telemetry import metrics
from penstock.testing.certificates import issue


def renew(folder: Path, name: str, issuer: str, **more: Any) -> None:
    """Another certificate in the place of one, put there as a whole."""
    beside = folder / "renewed"
    beside.mkdir(exist_ok=True)
    for suffix in ("crt", "key"):
        (beside / f"{issuer}.{suffix}").write_bytes((folder / f"{issuer}.{suffix}").read_bytes())
    for path in issue(beside, name, issuer, **more):
        os.replace(path, folder / path.name)


def held(folder: Path, name: str) -> Security:
    return Security.of_files(
        authority=folder / "ca.crt", certificate=folder / f"{name}.crt", key=folder / f"{name}.key"
    )


async def score(address: str, security: Security, text: str = "x") -> None:
    async with channel(address, security=security) as opened:
        await call(reward_pb2_grpc.RewardServiceStub(opened).Score(request(text), timeout=5))


async def test_a_server_shows_the_new_certificate_after_its_files_changed(
    servicer: Misbehaving, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, issuer in (("ca", ""), ("server", "ca"), ("client", "ca")):
        issue(tmp_path, name, issuer)
    async with Server("test", security=held(tmp_path, "server")) as server:
        server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
        await server.start()
        await score(server.address, held(tmp_path, "client"))
        first = (tmp_path / "server.crt").read_text()
        (tmp_path / "server.crt").write_text("-----BEGIN CERTIF")
        await score(server.address, held(tmp_path, "client"))  # what is half written changes nothing
        assert "cannot be used; the former ones stay in use" in caplog.text
        renew(tmp_path, "server", "ca")
        await score(server.address, held(tmp_path, "client"))
        told = await asyncio.to_thread(shown, server.address, tmp_path)
        second = (tmp_path / "server.crt").read_text()
        assert first != second and told == ssl.PEM_cert_to_DER_cert(second)


def shown(address: str, folder: Path) -> bytes:
    """The certificate that a server shows, in DER."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    context.load_cert_chain(folder / "client.crt", folder / "client.key")
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        return tls.getpeercert(binary_form=True) or b""


async def test_a_call_after_a_renewal_shows_the_new_certificate_and_none_is_ended(
    servicer: Misbehaving, tmp_path: Path
) -> None:
    """The first certificate is another authority's: only the renewed one is let in."""
    for name, issuer in (("ca", ""), ("other", ""), ("server", "ca"), ("client", "ca")):
        issue(tmp_path, name, issuer)
    async with Server("test", security=held(tmp_path, "server")) as server:
        server.add(reward_pb2_grpc.add_RewardServiceServicer_to_server, servicer)
        await server.start()
        async with channel(server.address, security=held(tmp_path, "client")) as opened:
            stub = reward_pb2_grpc.RewardServiceStub(opened)
            slow = asyncio.ensure_future(call(stub.Score(request("slow"), timeout=20)))
            await asyncio.wait_for(servicer.entered.wait(), 10)
            renew(tmp_path, "client", "other")
            with pytest.raises(Unavailable):
                await call(stub.Score(request("x"), timeout=3))
            renew(tmp_path, "client", "ca")
            await call(stub.Score(request("x"), timeout=5))
            assert (await slow).results


def test_a_certificate_that_ends_soon_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    issue(tmp_path, "ca", days=400)
    certificate, key = issue(tmp_path, "a", "ca", days=3)
    found = Certificates.of_files(authority=tmp_path / "ca.crt", certificate=certificate, key=key)
    assert f"the certificate {certificate} ends in 3.0 days" in caplog.text and "ca.crt" not in caplog.text
    gauge = metrics.gauge(metrics.CERTIFICATE_ENDS, "", ["file"]).labels(str(certificate))
    assert gauge._value.get() == ends_at(certificate.read_bytes())
    caplog.clear()
    renew(tmp_path, "a", "ca", days=90)
    assert found.refresh() and not found.refresh()
    assert "ends in" not in caplog.text and gauge._value.get() == ends_at(certificate.read_bytes())


def test_one_that_has_ended_is_told_of_once_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = issue(tmp_path, "a", days=3)
    found = Certificates.of_files(certificate=certificate, key=key)
    now = time.time()
    for days in (10, 10.5, 11.1):
        monkeypatch.setattr(time, "time", lambda late=now + days * 86400: late)
        assert not found.refresh()
    told = [record.message for record in caplog.records if "ago" in record.message]
    assert [message.rpartition(" ended ")[2].partition(";")[0] for message in told] == ["7.0 days ago", "8.1 days ago"]


def test_what_is_no_certificate_has_no_end(tmp_path: Path) -> None:
    certificate, _ = issue(tmp_path, "a")
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    for cut in range(0, 200, 3):
        with pytest.raises(ValueError):
            ends_at(ssl.DER_cert_to_PEM_cert(der[:cut]).encode())
    with pytest.raises(ValueError):
        ends_at(b"")


def test_metrics_are_shown_to_holders_of_a_certificate_alone(tmp_path: Path) -> None:
    for name, issuer in (("ca", ""), ("server", "ca"), ("client", "ca")):
        issue(tmp_path, name, issuer)
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    port = metrics.serve(0, certificate=certificate, key=key, authority=tmp_path / "ca.crt")
    url = f"https://127.0.0.1:{port}/metrics"
    context = held(tmp_path, "client").certificates
    assert context is not None
    for _ in range(2):
        with urllib.request.urlopen(url, timeout=5, context=context.context()) as answer:
            assert b"rpc_certificate_ends_at" in answer.read()
        renew(tmp_path, "server", "ca")
    with pytest.raises(OSError):
        bare = ssl.create_default_context(cafile=tmp_path / "ca.crt")
        urllib.request.urlopen(url, timeout=5, context=bare).read()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()
