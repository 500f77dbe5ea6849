"""The run's secrets are there before its services are, and none of them stands where others can read it."""

import pathlib
import stat

from typer.testing import CliRunner

from penstock.access import KINDS
from penstock.cli.credentials import login_of, make_secrets, page_key_of, security_of, users_of
from penstock.cli.main import app
from penstock.recipes import dump, resolve
from penstock.supervisor import plan
from penstock.supervisor.plan import instances
from penstock.tiny_model import make_model


def test_secrets_are_in_files_of_their_owner_and_nowhere_else(tmp_path: pathlib.Path) -> None:
    make_model(tmp_path / "model", hidden=32, layers=1, intermediate=64)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    raw = {
        "run": "r1",
        "model": {"path": str(tmp_path / "model")},
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 1},
    }
    recipe = resolve(raw)
    make_secrets(tmp_path, "r1")
    files = list((tmp_path / "secrets").iterdir())
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    named = {path.name for path in files}
    assert named >= {f"{kind}.token" for kind in KINDS} and {"callers.json", "page.key", "learner.nats"} <= named
    secrets = {path.read_text().strip().rpartition(":")[2] for path in files if path.suffix != ".json"}
    assert len(secrets) == len(files) - 1, "each is known by its own"
    addresses = {name: f"127.0.0.1:{7000 + i}" for i, name in enumerate(instances(recipe))}
    services = list(plan(recipe, tmp_path, "nats://127.0.0.1:4222", addresses))
    told = " ".join(word for service in services for word in service.command) + dump(recipe)
    told += (tmp_path / "secrets/callers.json").read_text()
    told += repr((security_of(tmp_path), login_of(tmp_path), users_of(tmp_path, "r1")))
    assert not any(secret in told for secret in secrets)
    for service in services:
        kind = service.name.rpartition("-")[0] or service.name
        own = [word for word in service.command if "/secrets/" in word and word.endswith((".token", ".nats"))]
        assert own and {pathlib.Path(word).stem for word in own} == {kind}, "no service is told of another's secret"
    before = page_key_of(tmp_path)
    make_secrets(tmp_path, "r1")
    assert page_key_of(tmp_path) == before, "they are made once"
    assert secrets == {path.read_text().strip().rpartition(":")[2] for path in files if path.suffix != ".json"}


def test_identities_are_made_without_a_run_for_services_that_are_started_by_hand(tmp_path: pathlib.Path) -> None:
    said = CliRunner().invoke(app, ["secrets", "r1", "--runs", str(tmp_path)])
    assert said.exit_code == 0
    users = tmp_path / "r1/secrets/nats-users.conf"
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    password = (tmp_path / "r1/secrets/rollout.nats").read_text().strip().partition(":")[2]
    assert password in users.read_text() and password not in said.output
    for bad in ("a.b", "", "../x"):
        assert CliRunner().invoke(app, ["secrets", bad, "--runs", str(tmp_path)]).exit_code == 2
