"""What cannot run is refused before anything starts: exit code 2, the field, the value, the nearest valid choice."""

import json
import pathlib
import socket
import subprocess

import pytest

from tests.e2e.testing.runs import gone, program, recipe


def train(folder: pathlib.Path, path: pathlib.Path, *overrides: str) -> tuple[int, str]:
    command = [program("PENSTOCK"), "train", str(path), *overrides, "--runs", str(folder / "runs")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("algorithm.loss.clip_hi=0.3", "did you mean algorithm.loss.clip_high?"),
        ("algorithm.steps=zero", "algorithm.steps"),
        ("learner.parallel.tensor=3", "learner.ranks: 1 is not a multiple"),
        ("model.path=./nowhere", "model.path: no directory './nowhere'"),
        ("sampling.top_p=1.5", "sampling.top_p"),
        ("mode=replay", "mode: 'replay' is for `penstock replay`"),
        ("algorithm.loss.correction=none", "neither an off-policy correction nor a trust region"),
    ],
)
def test_a_bad_recipe_starts_nothing(tmp_path: pathlib.Path, override: str, words: str) -> None:
    code, text = train(tmp_path, recipe(tmp_path), override)
    assert code == 2
    assert words in text
    assert not (tmp_path / "runs").exists()


def test_a_model_that_the_backend_does_not_have_starts_nothing(tmp_path: pathlib.Path) -> None:
    path = recipe(tmp_path)
    config = tmp_path / "assets" / "model" / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    code, text = train(tmp_path, path)
    assert code == 2 and not (tmp_path / "runs").exists()
    assert "megatron does not train GPT2LMHeadModel" in text and "Qwen3ForCausalLM" in text
    assert "learner.backend=transformers" in "".join(text.split())


def test_a_model_directory_without_weights_fails_the_run_with_its_reason(tmp_path: pathlib.Path) -> None:
    path = recipe(tmp_path)
    (tmp_path / "assets" / "model" / "model.safetensors").unlink()
    code, text = train(tmp_path, path)
    assert code == 1
    assert "has no model.safetensors" in " ".join(text.split())
    assert gone(tmp_path / "runs" / "r", within=20)


def test_a_run_directory_in_use_is_refused(tmp_path: pathlib.Path) -> None:
    import fcntl

    (tmp_path / "runs" / "r").mkdir(parents=True)
    with (tmp_path / "runs" / "r" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, text = train(tmp_path, recipe(tmp_path))
    assert code == 2 and "in use by another process" in text


def test_a_taken_port_ends_a_service_with_one_clear_line(tmp_path: pathlib.Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [program("PENSTOCK"), "serve", "weight_sync", "--listen", address, "--directory", str(tmp_path / "v")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"cannot listen on {address}" in done.stderr


def test_an_absent_nats_is_named(tmp_path: pathlib.Path) -> None:
    path = recipe(tmp_path)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nats = f"nats://127.0.0.1:{unused.getsockname()[1]}"
    command = [program("PENSTOCK"), "serve", "rollout", "--recipe", str(path), "--nats", nats]
    command += ["--generation", "127.0.0.1:1", "--environment", "127.0.0.1:1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        said = next((line for line in waiting.stderr if "still waiting for NATS" in line), "")
        waiting.terminate()
    assert nats in said and "Traceback" not in said


def test_conformance_says_when_nobody_answers(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [program("PENSTOCK"), "conformance", "127.0.0.1:1"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
