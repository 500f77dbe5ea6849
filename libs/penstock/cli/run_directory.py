"""runs/<name>: one run's files, held by one process at a time."""

import json
import os
import pathlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import yaml

from penstock.recipes import Recipe, RecipeError, differing, dump, resolve
from penstock.system.locks import InUse, alone

RATE = (
    "learner.optimizer.learning_rate",
    "learner.optimizer.schedule",
    "learner.optimizer.warmup_steps",
    "learner.optimizer.decay_steps",
    "learner.optimizer.final_ratio",
)
"""What the learning rate of a step is found by; every recorded batch says it."""
# How and where a run computes, how services know each other and what is watched, not what is trained, and the learning
# rate: a run goes on under any of these. What was changed is in the ledger.
MAY_CHANGE = (
    "learner.ranks",
    "learner.nodes",
    "learner.rejoin_seconds",
    "learner.devices",
    "generation.devices",
    "learner.parallel.",
    "learner.recompute",
    "learner.offload",
    "learner.micro_batch_tokens",
    "learner.threads",
    "learner.device_gib",
    "learner.hung_seconds",
    "learner.collective_minutes",
    "learner.checkpoints.",
    *RATE,
    "evaluation.every",
    "evaluation.tasks",
    "generation.replicas",
    "generation.max_running",
    "generation.memory_gib",
    "generation.gpu_memory_fraction",
    "generation.tensor",
    "generation.chunk_tokens",
    "generation.threads",
    "generation.speculative",
    "environment.replicas",
    "environment.workers",
    "rollout.workers",
    "rollout.attempts",
    "rollout.generation_timeout_seconds",
    "limits.group_deadline_seconds",
    "limits.outage_seconds",
    "limits.stall_seconds",
    "limits.log_bytes",
    "limits.keep_log",
    "telemetry.",
    "weight_sync.keep_versions",
    "weight_sync.full_every",
    "weight_sync.canary",
    "security",
)
ADDRESSES = "addresses.json"
"""In a run's directory while it is under way: where its services and its NATS are."""
TARGETS = ("evaluation.target_reward", "evaluation.target_loss")
"""What ends a run before its last step; it says nothing of how the steps were made."""


class RunRefused(RuntimeError):
    """The run directory cannot be used as asked; the text says why and what to do."""


@contextmanager
def held(root: pathlib.Path, recipe: Recipe) -> Iterator[pathlib.Path]:
    """The run's directory, made or resumed, locked for the block.

    A directory with the same resolved recipe is resumed, and one that differs in what MAY_CHANGE alone, or in a larger
    `algorithm.steps`; a finished run goes on for more steps alone, or to another target. Another recipe is refused.
    Raises RunRefused, or OSError where the directory cannot be written.
    """
    folder = root / recipe.run
    root.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)  # samples and weights are the user's; who shares them says so by chmod
    with locked(folder):
        (folder / ADDRESSES).unlink(missing_ok=True)  # of an earlier life: nobody of it is there
        _check(folder, recipe)
        _reopen(folder)
        (folder / "recipe.yaml").write_text(dump(recipe))
        yield folder


@contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """The run directory is this process's alone for the block. Raises RunRefused if another one has it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(folder, "wait for it or choose another run=NAME"))
        except InUse as used:
            raise RunRefused(str(used)) from None
        yield


def _check(folder: pathlib.Path, recipe: Recipe) -> None:
    path = folder / "recipe.yaml"
    before = _as_read_today(path) if path.is_file() else None
    different = [] if before is None else [key for key, _, _ in differing(before, yaml.safe_load(dump(recipe)))]
    more = before is not None and recipe.mode == "train" and recipe.steps > before["algorithm"]["steps"]
    goes_on = more or any(key in TARGETS for key in different)
    if _finished(folder) is not None and not goes_on:
        raise RunRefused(
            f"{folder} holds a finished run; a larger algorithm.steps goes on with it, or choose another run=NAME or "
            "remove the directory"
        )
    room = None if before is None else before["limits"]["log_bytes"]
    if room is not None and recipe.limits.log_bytes < room:
        raise RunRefused(f"limits.log_bytes: the log of {folder} has {room} bytes of room, and cannot get less")
    may = (*MAY_CHANGE, *TARGETS, *(["algorithm.steps"] if more else []))
    changed = sorted(key for key in different if not key.startswith(may))
    if changed:
        raise RunRefused(
            f"{folder} was started with another recipe (different: {', '.join(changed[:8])}); resume it with the "
            f"recipe it has, {path}, or choose another run=NAME"
        )


def _as_read_today(path: pathlib.Path) -> dict[str, Any]:
    """The resolved recipe of a run, with the defaults of keys that came later; or as it is, if refused now."""
    raw: dict[str, Any] = yaml.safe_load(path.read_text())
    try:
        return cast(dict[str, Any], yaml.safe_load(dump(resolve(raw))))
    except RecipeError:
        return raw


def _finished(folder: pathlib.Path) -> dict[str, Any] | None:
    """The summary of a run that came to its end and exported its model."""
    path = folder / "summary.json"
    if not (folder / "export").is_dir() or not path.is_file():
        return None
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary if summary.get("status", "done") == "done" else None


def _reopen(folder: pathlib.Path) -> None:
    """Says of a finished run that it is none any more, before anything else changes: what is interrupted is resumed."""
    summary = _finished(folder)
    if summary is not None:
        beside = folder / ".summary.json"
        beside.write_text(json.dumps({**summary, "status": "starting", "reason": ""}, indent=2) + "\n")
        os.replace(beside, folder / "summary.json")
