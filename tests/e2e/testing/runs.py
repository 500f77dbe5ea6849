"""Starts real `penstock` runs for end-to-end tests, finds their processes, and leaves none behind."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from penstock.tiny_model import make_assets

POLL_SECONDS = 0.2


def program(name: str) -> str:
    """The path of a Bazel program that the test names in its environment."""
    return str(pathlib.Path.cwd() / os.environ[name])


def recipe(folder: pathlib.Path, **algorithm: Any) -> pathlib.Path:
    """A small GRPO recipe with its assets below `folder`."""
    assets = folder / "assets"
    if not assets.exists():
        make_assets(assets, demonstrations=64, prompts=256)
    settings = {
        "run": "r",
        "model": {"path": str(assets / "model")},
        "data": {"train": str(assets / "train.jsonl"), "eval": str(assets / "eval.jsonl")},
        "environment": {"name": "sort_characters"},
        "algorithm": {"steps": 10, "groups_per_step": 4, "group_size": 4, **algorithm},
        "sampling": {"max_tokens": 24},
        "evaluation": {"tasks": 4},
        "learner": {"checkpoints": {"every": 2}, "optimizer": {"learning_rate": 1.0e-4}},
        "generation": {"max_running": 64, "max_context": 96},
        "telemetry": {"tensorboard": False},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def reward_first_character(path: pathlib.Path, *, impossible: int = 0) -> None:
    """Changes a recipe so that even a random model has something to learn: answers that begin with a digit or a-f.

    Of every ten rows the first `impossible` have no right answer, so that all rewards of their groups are equal.
    """
    settings = json.loads(path.read_text())
    settings["environment"] = {"name": "sort_characters", "rewards": [{"name": "format"}]}
    for key in ("train", "eval"):
        source = pathlib.Path(settings["data"][key])
        rows = [json.loads(line) for line in source.read_text().splitlines()]
        for i, row in enumerate(rows):
            row["pattern"] = "[^\\s\\S]" if i % 10 < impossible else "[0-9a-f].*"
        target = source.with_name(f"{key}-first.jsonl")
        target.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings["data"][key] = str(target)
    path.write_text(json.dumps(settings))


class Running:
    """A `penstock train` under way in `folder`."""

    def __init__(self, folder: pathlib.Path, process: "subprocess.Popen[bytes]", output: pathlib.Path) -> None:
        self.run, self.process, self._output = folder / "runs" / "r", process, output

    def step(self) -> int:
        """Steps that are in metrics.jsonl."""
        path = self.run / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def until_step(self, step: int, within: float) -> None:
        """Waits until `step` steps are done, or fails with what the run printed."""
        end = time.monotonic() + within
        while self.step() < step:
            assert self.process.poll() is None, self.report("the run ended early")
            assert time.monotonic() < end, self.report(f"step {step} was not reached within {within:g} s")
            time.sleep(POLL_SECONDS)

    def kill(self, service: str) -> int:
        """kill -9 of one service's process; its pid."""
        for pid in pids(self.run, service):
            with contextlib.suppress(ProcessLookupError):  # a fork that is about to become another program
                os.kill(pid, signal.SIGKILL)
                return pid
        raise AssertionError(self.report(f"{service} does not run"))

    def rank(self, number: int, within: float = 60) -> int:
        """The process id of a rank of the learner, once it runs."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            for pid in pids(self.run, "learner"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    if f"RANK={number}".encode() in (pathlib.Path("/proc") / str(pid) / "environ").read_bytes().split(
                        b"\0"
                    ):
                        return pid
            time.sleep(POLL_SECONDS)
        raise AssertionError(self.report(f"the learner has no rank {number}"))

    def said(self, service: str, words: str, within: float) -> None:
        """Waits until a service's log has `words`, or fails."""
        log, end = self.run / "logs" / f"{service}.log", time.monotonic() + within
        while not (log.exists() and words in log.read_text(errors="replace")):
            assert time.monotonic() < end, self.report(f"{service} did not say {words!r}")
            time.sleep(POLL_SECONDS)

    def end(self, within: float) -> int:
        """Waits for the end of the command; its exit code."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.report(f"no end within {within:g} s")) from None

    def summary(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.run / "summary.json").read_text())
        return result

    def report(self, what: str) -> str:
        """What went wrong, with the last words of everything."""
        parts = [what, self._output.read_text(errors="replace")[-3000:]]
        for log in sorted((self.run / "logs").glob("*.log")):
            parts.append(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}")
        return "\n".join(parts)


def penstock(folder: pathlib.Path, *words: str, within: float) -> "subprocess.CompletedProcess[str]":
    """Runs a `penstock` command in `folder` to its end; its group is killed where it has none in time."""
    command = [program("PENSTOCK"), *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, "")


@contextlib.contextmanager
def training(folder: pathlib.Path, path: pathlib.Path, *overrides: str) -> Iterator[Running]:
    """Runs `penstock train` in `folder`, with key=value overrides; whatever is left of it at the end is killed, and
    what its streams say must keep every promise."""
    output = folder / "output.txt"
    with output.open("ab") as out:
        command = [program("PENSTOCK"), "train", str(path), *overrides, "--runs", str(folder / "runs")]
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder, start_new_session=True)
    running = Running(folder, process, output)
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pid in pids(running.run):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if (running.run / "nats").is_dir():
        verified = penstock(folder, "verify", "r", "--runs", str(folder / "runs"), within=120)
        assert verified.returncode == 0, running.report(verified.stdout)


def pids(run: pathlib.Path, service: str | None = None) -> list[int]:
    """Processes whose command line names the run's directory (and is the named service's).

    Without a service also those that work in the directory the runs were started from: vLLM's engine processes have a
    command line of their own.
    """
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            works_here = service is None and (entry / "cwd").readlink().is_relative_to(run.parent.parent)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if works_here or (any(str(run) in word for word in words) and (service is None or service in words)):
            found.append(int(entry.name))
    return sorted(found)


def gone(run: pathlib.Path, within: float) -> bool:
    """Whether every process of the run is gone within `within` seconds."""
    end = time.monotonic() + within
    while pids(run) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return not pids(run)


def adds_up(summary: dict[str, Any]) -> bool:
    """admitted = trained + filtered + expired + failed + in flight."""
    s = summary["samples"]
    return bool(s["admitted"] == s["trained"] + s["filtered"] + s["expired"] + s["failed"] + s["in_flight"])
