"""Names of a hub against a hub on loopback: fetched once, pinned, and refused in a sentence where there is none."""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.recipes import RecipeError, resolve
from penstock.tiny_model import make_model

COMMIT = "a" * 40
TOKEN = "hf_secretsecret"


class Hub(http.server.BaseHTTPRequestHandler):
    """What huggingface_hub asks of a hub, for files of a folder: <folder>/<models|datasets>/<owner>/<name>/..."""

    root: pathlib.Path
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *words: Any) -> None:
        """Says nothing."""

    def _answer(self, *, body: bool) -> None:
        self.asked.append((self.path, self.headers.get("authorization")))
        path = self.path.partition("?")[0].strip("/")
        parts = path.split("/")
        if parts[0] == "api" and len(parts) >= 6 and parts[4] in ("revision", "tree"):
            folder = self.root / "/".join(parts[1:4])
            files = sorted(p for p in folder.rglob("*") if p.is_file())
            names = [str(p.relative_to(folder)) for p in files]
            if parts[4] == "tree":
                said: Any = [
                    {
                        "type": "file",
                        "path": n,
                        "size": p.stat().st_size,
                        "oid": hashlib.sha1(p.read_bytes()).hexdigest(),
                    }
                    for n, p in zip(names, files, strict=True)
                ]
            else:
                said = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
            return self._send(json.dumps(said).encode(), body=body, found=folder.is_dir())
        kind, rest = ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)
        file = self.root / kind / "/".join(rest[:2]) / "/".join(rest[4:])
        self._send(file.read_bytes() if file.is_file() else b"", body=body, found=file.is_file())

    def _send(self, content: bytes, *, body: bool, found: bool) -> None:
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(content) if found else 0))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body and found:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: pathlib.Path) -> Iterator[tuple[str, type[Hub]]]:
    """A hub with one model and one data set; its address."""

    class Served(Hub):
        root = tmp_path / "hub"
        asked = list[tuple[str, str | None]]()

    served = Served
    model = served.root / "models/org/tiny"
    model.parent.mkdir(parents=True)
    make_model(model, hidden=32, layers=1, intermediate=64)
    (model / "pytorch_model.bin").write_text("a pickle")
    rows = served.root / "datasets/openai/gsm8k/main"
    rows.mkdir(parents=True)
    for i in range(2):
        (rows / f"train-{i:05}-of-00002.jsonl").write_text(json.dumps({"prompt": f"p{i}"}) + "\n")
    (rows / "test.jsonl").write_text('{"prompt": "t"}\n')
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", served
        server.shutdown()
        thread.join()


def resolved(folder: pathlib.Path, endpoint: str, *overrides: str, **environment: str) -> tuple[int, str]:
    """`penstock config` in a process of its own, which reads the hub's settings when it starts; (exit code, output)."""
    recipe = {
        "run": "r1",
        "model": {"path": "org/tiny"},
        "data": {"train": "openai/gsm8k:main:train", "eval": "openai/gsm8k:main:test"},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 1},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "HF_TOKEN": TOKEN, **environment}
    settings["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
    program = "import sys; from penstock.recipes import dump, load; print(dump(load(sys.argv[1], sys.argv[2:])))"
    command = [sys.executable, "-c", program, str(folder / "recipe.yaml"), *overrides]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, **settings}, timeout=120
    )
    assert TOKEN not in done.stdout + done.stderr
    return done.returncode, done.stderr if done.returncode else done.stdout


def test_what_a_recipe_names_is_fetched_once_and_pinned(tmp_path: pathlib.Path, hub: tuple[str, type[Hub]]) -> None:
    endpoint, served = hub
    code, said = resolved(tmp_path, endpoint)
    assert code == 0, said
    assert f"snapshots/{COMMIT}\n" in said and f"{COMMIT}/main/train-*.jsonl" in said and "main/test.jsonl" in said
    assert f"Bearer {TOKEN}" in {shown for _, shown in served.asked}
    fetched = [path for path, _ in served.asked]
    assert any("config.json" in path for path in fetched) and not any(".bin" in path for path in fetched)
    served.asked.clear()
    assert resolved(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1") == (0, said), "the cache is enough"


def test_what_cannot_be_fetched_is_refused_in_a_sentence(tmp_path: pathlib.Path, hub: tuple[str, type[Hub]]) -> None:
    endpoint, _ = hub
    for override, words in (
        ("model.path=org/other", "model.path: there is no 'org/other' here, and as a model of the hub it cannot be"),
        ("data.train=openai/gsm8k:main:dev", "data.train: the data set openai/gsm8k has no files main/dev.parquet"),
        ("data.train=nobody/rows:train", "data.train: there is no 'nobody/rows' here"),
    ):
        code, said = resolved(tmp_path, endpoint, override)
        assert code != 0 and words in said, said
    code, said = resolved(tmp_path, "http://127.0.0.1:9", HF_HOME=str(tmp_path / "empty"))
    assert "name a local path, or see HF_ENDPOINT" in said


@pytest.mark.parametrize("odd", [5, "x", [1], [{"data": 3}], {"data": {"train": 4}}])
def test_what_is_no_source_is_refused_as_such(odd: object) -> None:
    with pytest.raises(RecipeError, match="mixture"):
        resolve({"run": "r", "mixture": odd})


def test_local_names_are_never_asked_for(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").mkdir()
    with pytest.raises(RecipeError, match=r"model\.path: no directory 'assets/model'"):
        resolve(
            {"run": "r", "model": {"path": "assets/model"}, "data": {"train": "x.jsonl"}, "algorithm": {"steps": 1}}
        )
