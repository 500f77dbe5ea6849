"""A whole run under mutual TLS, from its recipe: services, NATS, page, commands. Certificates are renewed under way."""

import asyncio
import json
import os
import pathlib
import ssl
import urllib.request

import grpc
import pytest

from penstock import rpc
from penstock.access import KINDS, Identity
from penstock.rpc import Security
from penstock.testing.certificates import issue, issue_kinds
from penstock.weights.v1 import weights_pb2, weights_pb2_grpc
from tests.e2e.testing.runs import Running, adds_up, gone, penstock, recipe, training

CERTIFIED = (*KINDS, "nats")


def tls(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Has a recipe demand certificates, and makes them in `folder`."""
    folder.mkdir()
    authority = issue_kinds(folder, *CERTIFIED)
    settings = json.loads(path.read_text())
    settings["security"] = {"authority": str(authority), "certificates": str(folder)}
    path.write_text(json.dumps(settings))


async def pushed(run: pathlib.Path, folder: pathlib.Path, kind: str, token: str) -> tuple[grpc.StatusCode, str]:
    """What becomes of a version that is begun with the certificate of one kind and the secret of another."""
    address = json.loads((run / "addresses.json").read_text())["weight_sync"]
    certificate, key = folder / f"{kind}.crt", folder / f"{kind}.key"
    held = Security.of_files(authority=folder / "ca.crt", certificate=certificate, key=key)
    identity = Identity.parsed((run / f"secrets/{token}.token").read_text())
    async with rpc.channel(address, security=Security(None, held.certificates, identity)) as channel:
        try:
            stub = weights_pb2_grpc.WeightSyncServiceStub(channel)
            await rpc.call(stub.BeginVersion(weights_pb2.BeginVersionRequest(), timeout=10))
        except rpc.RpcError as error:
            return error.code, error.message
    return grpc.StatusCode.OK, ""


def assert_nobody_pushes_but_the_learner(run: pathlib.Path, folder: pathlib.Path) -> None:
    denied = grpc.StatusCode.PERMISSION_DENIED
    for kind, token, words in (
        ("rollout", "rollout", "rollout may not call penstock.weights.v1.WeightSyncService/BeginVersion"),
        ("environment", "environment", "environment may not call penstock.weights.v1.WeightSyncService/BeginVersion"),
        ("operator", "operator", "operator may not call penstock.weights.v1.WeightSyncService/BeginVersion"),
        ("rollout", "learner", "its certificate is the rollout's, and its token the learner's"),
    ):
        assert asyncio.run(pushed(run, folder, kind, token)) == (denied, words)
    code, _ = asyncio.run(pushed(run, folder, "learner", "learner"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT, "its right is not in doubt, and its manifest is empty"


def assert_the_page_is_https(run: Running, folder: pathlib.Path) -> None:
    address = json.loads((run.run / "addresses.json").read_text())["dashboard"]
    key = (run.run / "secrets/page.key").read_text().strip()
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    browser = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=context), urllib.request.HTTPCookieProcessor()
    )
    with browser.open(f"https://{address}/?key={key}", timeout=10) as answer:
        assert answer.status == 200
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://{address}/?key={key}", timeout=10)


def renew(folder: pathlib.Path) -> None:
    """Another certificate for everybody, each put in its place as a whole."""
    beside = folder / "renewed"
    beside.mkdir()
    for suffix in ("crt", "key"):
        (beside / f"ca.{suffix}").write_bytes((folder / f"ca.{suffix}").read_bytes())
    for kind in CERTIFIED:
        for path in issue(beside, kind, "ca", uri=f"spiffe://penstock/{kind}"):
            os.replace(path, folder / path.name)


def test_a_run_under_mutual_tls_trains_and_its_certificates_are_renewed_under_way(tmp_path: pathlib.Path) -> None:
    path, folder = recipe(tmp_path, steps=400), tmp_path / "certificates"
    tls(path, folder)
    with training(tmp_path, path) as run:
        run.until_step(1, within=240)
        assert_nobody_pushes_but_the_learner(run.run, folder)
        assert_the_page_is_https(run, folder)
        renew(folder)
        for service in ("rollout-0", "coordinator"):
            run.kill(service)  # whoever starts now has new certificates, and the others are asked by it
        run.until_step(run.step() + 4, within=240)
        status = penstock(tmp_path, "status", "r", "--runs", str(tmp_path / "runs"), within=60)
        assert status.returncode == 0, status.stdout
        stopped = penstock(tmp_path, "stop", "r", "--runs", str(tmp_path / "runs"), within=60)
        assert stopped.returncode == 0, stopped.stdout
        assert run.end(within=240) in (0, 1, 3), run.report("the run failed")
        summary = run.summary()
        assert summary["status"] == "stopped" and adds_up(summary), summary
        assert gone(run.run, within=30), run.report("processes were left behind")


def test_half_a_configuration_is_bad_input_that_names_the_file(tmp_path: pathlib.Path) -> None:
    path, folder = recipe(tmp_path, steps=1), tmp_path / "certificates"
    tls(path, folder)
    (folder / "learner.key").unlink()
    ended = penstock(tmp_path, "train", str(path), "--runs", str(tmp_path / "runs"), within=60)
    said = "".join(line.strip() for line in ended.stdout.splitlines())  # the console folds a path that is long
    assert ended.returncode == 2 and "learner.key" in said, ended.stdout
