"""Checkpoints as one atomic unit: every rank's shard, and what the caller wants to know again, or nothing.

    checkpoints/step-000012/        complete, or not there
        manifest.json               layout, extra (the caller's JSON), size and SHA-256 of every file
        model-pp0-tp0.pt            weights of one model shard (written by one of its replicas)
        rank-00000.pt               optimizer shard, random state
    checkpoints/.step-000014.partial    being written; a killed save's is removed by `prune`

Shards are plain torch.save files read with weights_only: a save costs milliseconds for a small model (Megatron's
torch_dist format starts helper processes: seconds), and a resume is bit-exact. The price: a checkpoint loads only into
the layout that wrote it. To change layout, export to Hugging Face format and start from that.
"""

import hashlib
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from penstock.process import writing

log = logging.getLogger(__name__)

_FORMAT = 1
_NAME = re.compile(r"step-(\d{6,})")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says which file and why."""


class DamagedCheckpoint(CheckpointError):
    """Incomplete or corrupted: an older one may be good."""


class LayoutMismatch(CheckpointError):
    """Written under other parallel sizes."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gather_failures(failure: str | None) -> list[str]:
    """Every rank's failure, on every rank, so that none waits for one that gave up."""
    answers: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, failure)
    return [f"rank {rank}: {answer}" for rank, answer in enumerate(answers) if answer is not None]


def write(path: str | Path, shards: Mapping[str, Any], layout: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """Writes `path` with this rank's `shards` (file name -> picklable state); a collective.

    A directory already at `path` is replaced; a crash between its removal and the rename leaves the previous
    checkpoint as the newest.
    Raises CheckpointError on every rank if any rank failed; `path` is then as it was.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.partial"
    failure = None
    if dist.get_rank() == 0:
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            with writing(temporary):
                temporary.mkdir(parents=True)
        except OSError as error:
            failure = str(error)
    _raise_together(failure, path, temporary)

    files: dict[str, dict[str, Any]] = {}
    try:
        for name, state in shards.items():
            with writing(temporary / name):
                _save(temporary / name, state)
            files[name] = {"bytes": (temporary / name).stat().st_size, "sha256": _digest(temporary / name)}
    except OSError as error:
        failure = str(error)
    _raise_together(failure, path, temporary)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, files)

    if dist.get_rank() == 0:
        try:
            _commit(path, temporary, {k: v for part in gathered for k, v in part.items()}, layout, extra)
        except OSError as error:
            failure = str(error)
    _raise_together(failure, path, temporary)


def _save(path: Path, state: Any) -> None:
    """torch.save and fsync. Raises OSError also where torch hides it behind a RuntimeError of its own.

    That one would end this rank alone, and leave the others waiting for it in the next collective.
    """
    failures: list[OSError] = []

    class Noting(io.FileIO):
        def write(self, data: Any) -> int:
            try:
                left = memoryview(data).cast("B")
                while left:  # a nearly full disk takes a part
                    left = left[super().write(left) :]
            except OSError as error:
                failures.append(error)
                raise
            return memoryview(data).nbytes

    try:
        with Noting(path, "wb") as file:
            torch.save(state, file)
            os.fsync(file.fileno())
    except RuntimeError:
        if failures:
            raise failures[0] from None
        raise


def _commit(
    path: Path, temporary: Path, files: dict[str, Any], layout: Mapping[str, Any], extra: Mapping[str, Any]
) -> None:
    manifest = {"format": _FORMAT, "layout": dict(layout), "extra": dict(extra), "files": files}
    with writing(temporary / "manifest.json"), (temporary / "manifest.json").open("w") as file:
        json.dump(manifest, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    _sync(temporary)
    if path.exists():
        replaced = path.parent / f".{path.name}.replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        path.rename(replaced)
        temporary.rename(path)
        shutil.rmtree(replaced)
    else:
        temporary.rename(path)
    _sync(path.parent)


def _raise_together(failure: str | None, path: Path, temporary: Path) -> None:
    failures = _gather_failures(failure)
    if failures:
        if dist.get_rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)  # the disk may be full of it
        raise CheckpointError(f"checkpoint {path} was not written: {'; '.join(failures)}")


def read(path: str | Path, names: list[str], layout: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """(states of the named shards, extra); a collective: all ranks succeed or all raise.

    Raises DamagedCheckpoint (any rank's file missing, short or with another checksum) or LayoutMismatch.
    """
    states: list[Any] = []
    extra: dict[str, Any] = {}
    failure, mismatch = None, None
    try:
        manifest = _manifest(Path(path))
        extra = manifest["extra"]
        if manifest["layout"] != dict(layout):
            mismatch = f"checkpoint {path} was written under {manifest['layout']}, this learner runs {dict(layout)}"
        else:
            states = [_load_verified(Path(path) / name, manifest["files"]) for name in names]
    except DamagedCheckpoint as error:
        failure = str(error)
    failures = _gather_failures(failure)
    if failures:
        raise DamagedCheckpoint("; ".join(failures))
    if mismatch:
        raise LayoutMismatch(mismatch)
    return states, extra


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path}/manifest.json cannot be read: {error}") from error
    if manifest.get("format") != _FORMAT:
        raise DamagedCheckpoint(f"{path} has format {manifest.get('format')}, this learner reads {_FORMAT}")
    return manifest


def _load_verified(path: Path, files: Mapping[str, Any]) -> Any:
    try:
        expected = files[path.name]
        if path.stat().st_size != expected["bytes"] or _digest(path) != expected["sha256"]:
            raise DamagedCheckpoint(f"{path} is corrupted: its size or checksum is not the manifest's")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, KeyError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error!r}") from error


def present(root: str | Path) -> list[Path]:
    """Checkpoint directories below `root`, newest first; not verified."""
    found = [p for p in Path(root).glob("step-*") if _NAME.fullmatch(p.name)] if Path(root).is_dir() else []
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def path_of(root: str | Path, step: int) -> Path:
    return Path(root) / f"step-{step:06d}"


def extra_of(path: str | Path) -> dict[str, Any]:
    """The `extra` that a checkpoint was written with. Raises DamagedCheckpoint."""
    extra: dict[str, Any] = _manifest(Path(path))["extra"]
    return extra


def prune(root: str | Path, keep: int) -> list[Path]:
    """Removes all but the newest `keep` checkpoints, and what killed saves left behind; returns the former.

    For rank 0, while nobody saves. Raises ValueError for keep < 1.
    """
    if keep < 1:
        raise ValueError(f"at least one checkpoint must be kept, got {keep}")
    for leftover in Path(root).glob(".step-*"):
        shutil.rmtree(leftover)
    old = present(root)[keep:]
    for path in old:
        hidden = path.parent / f".{path.name}.removed"
        path.rename(hidden)  # at once, so that nobody sees half of one
        shutil.rmtree(hidden)
    return old


def load_newest(root: str | Path, load: Any) -> tuple[int, dict[str, Any]] | None:
    """Tries `load(path) -> extra` on the newest checkpoint first; (step, extra), or None if there is none.

    A damaged one is reported as an error and the one before it is used. Raises CheckpointError if there are
    checkpoints but none is good: starting over silently would throw a run away.
    """
    candidates = present(root)
    for path in candidates:
        try:
            return int(path.name[5:]), load(path)
        except DamagedCheckpoint as error:
            log.error("checkpoint %s is damaged, using the one before it: %s", path, error)
    if candidates:
        raise CheckpointError(f"none of the {len(candidates)} checkpoints in {root} is intact")
    return None
