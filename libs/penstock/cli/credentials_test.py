"""The run's secrets are there before its services are, and none of them stands where others can read it."""

import pathlib
import stat

from penstock.cli.credentials import make_secrets, nats_token_of, page_key_of, security_of
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
    make_secrets(tmp_path)
    secrets = {nats_token_of(tmp_path), page_key_of(tmp_path), str(security_of(tmp_path).token)}
    assert len(secrets) == 3
    files = [p for p in (tmp_path / "secrets").iterdir()]
    assert len(files) == 3 and all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in files)
    addresses = {name: f"127.0.0.1:{7000 + i}" for i, name in enumerate(instances(recipe))}
    services = list(plan(recipe, tmp_path, "nats://127.0.0.1:4222", addresses))
    told = " ".join(word for service in services for word in service.command) + dump(recipe)
    assert not any(secret in told or secret in repr(security_of(tmp_path)) for secret in secrets)
    assert all(str(tmp_path / "secrets/services.token") in service.command for service in services)
