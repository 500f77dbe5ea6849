"""Checkpoints as one atomic unit: every rank's shard, and what the caller wants to know again, or nothing.

    checkpoints/step-000012/        complete, or not there
        manifest.json               model, layout, extra (the caller's JSON), size and SHA-256 of every file
        model-pp0-tp0.pt            weights of one model shard (written by one of its replicas)
        rank-pp0-tp0-dp0.pt         optimizer pieces and random state of one rank
    checkpoints/.step-000014.partial    being written; a killed save's is removed by `retention.prune`

Shards are plain torch.save files read with weights_only: a save costs milliseconds for a small model (Megatron's
torch_dist format starts helper processes: seconds), and a resume under the same layout is bit-exact because every rank
reads what it wrote. Another layout is served by `resharding`, from the same files.
"""

import hashlib
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from penstock.system.disk import writing
from services.learner.interface.snapshot import Snapshot
from services.learner.interface.telling import told_by_all

log = logging.getLogger(__name__)

_FORMAT = 2
CRITIC, REFERENCE = "critic", "reference"
"""The parts of a checkpoint that are a critic, and a reference that follows the policy."""
_NAME = re.compile(r"step-(\d{6,})")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message says which file and why."""


class DamagedCheckpoint(CheckpointError):
    """Incomplete or corrupted: an older one may be good."""


class AnotherModel(CheckpointError):
    """The checkpoint is intact, but of a model with other shapes."""


@dataclass(frozen=True)
class Manifest:
    """Of one checkpoint. model, layout: of the Snapshot. files: name -> {"bytes", "sha256"}."""

    model: Mapping[str, Any]
    layout: Mapping[str, Any]
    extra: dict[str, Any]
    files: Mapping[str, Any]

    def identity(self, part: str) -> Mapping[str, Any]:
        """Of the main model (part ""), or of the one saved beside it under that name; empty if there is none."""
        if part:
            found: Mapping[str, Any] = self.model.get(part, {})
            return found
        return {name: value for name, value in self.model.items() if name not in (CRITIC, REFERENCE)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gather_failures(failure: str | None, group: dist.ProcessGroup | None = None) -> list[str]:
    """Every rank's failure, on every rank, so that none waits for one that gave up."""
    answers = told_by_all(failure, group)
    return [f"rank {rank}: {answer}" for rank, answer in enumerate(answers) if answer is not None]


def write(
    path: str | Path, snapshot: Snapshot, extra: Mapping[str, Any], group: dist.ProcessGroup | None = None
) -> None:
    """Writes `path` with this rank's part and `extra` (JSON; rank 0's counts).

    A collective of `group`, which must have every rank; one of its own lets a save run beside training.
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
    _raise_together(failure, path, temporary, group)

    files: dict[str, dict[str, Any]] = {}
    try:
        for name, state in snapshot.shards.items():
            with writing(temporary / name):
                _save(temporary / name, state)
            files[name] = {"bytes": (temporary / name).stat().st_size, "sha256": _digest(temporary / name)}
    except OSError as error:
        failure = str(error)
    _raise_together(failure, path, temporary, group)
    gathered = told_by_all(files, group)

    if dist.get_rank() == 0:
        try:
            every = {name: about for part in gathered for name, about in part.items()}
            _commit(path, temporary, Manifest(snapshot.model, snapshot.layout, dict(extra), every))
        except OSError as error:
            failure = str(error)
    _raise_together(failure, path, temporary, group)


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


def _commit(path: Path, temporary: Path, manifest: Manifest) -> None:
    with writing(temporary / "manifest.json"), (temporary / "manifest.json").open("w") as file:
        json.dump({"format": _FORMAT, **asdict(manifest)}, file, indent=1, sort_keys=True)
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


def _raise_together(failure: str | None, path: Path, temporary: Path, group: dist.ProcessGroup | None) -> None:
    failures = _gather_failures(failure, group)
    if failures:
        if dist.get_rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)  # the disk may be full of it
        raise CheckpointError(f"checkpoint {path} was not written: {'; '.join(failures)}")


def manifest_of(path: str | Path) -> Manifest:
    """Raises DamagedCheckpoint, or CheckpointError for a format that this learner does not read."""
    try:
        raw = json.loads((Path(path) / "manifest.json").read_text())
        written = raw.pop("format")
        if written != _FORMAT:
            raise CheckpointError(f"{path} has format {written}, this learner reads {_FORMAT}")
        return Manifest(**raw)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedCheckpoint(f"{path}/manifest.json cannot be read: {error!r}") from error


def check_model(path: str | Path, manifest: Manifest, model: Mapping[str, Any], part: str = "") -> None:
    """Raises AnotherModel naming every field that differs, or the backend alone if another one wrote it. part: see
    Manifest.identity."""
    held = manifest.identity(part)
    written, here = (m.get("backend", "megatron") for m in (held, model))
    if written != here:
        raise AnotherModel(
            f"checkpoint {path} was written by learner.backend {written}, and {here} does not read it; go on with "
            f"learner.backend={written}, or begin a run with the exported weights as its model"
        )
    if held != dict(model):
        names = sorted(held.keys() | model.keys())
        differing = [
            f"{name} {held.get(name)!r} (here {model.get(name)!r})"
            for name in names
            if held.get(name) != model.get(name)
        ]
        raise AnotherModel(f"checkpoint {path} is of another model: {', '.join(differing)}")


def read(path: str | Path, manifest: Manifest, names: Iterable[str]) -> list[Any]:
    """States of the named shards of this rank; a collective: all ranks succeed or all raise DamagedCheckpoint (any
    rank's file missing, short or with another checksum)."""
    states: list[Any] = []
    failure = None
    try:
        states = [_load_verified(Path(path) / name, manifest.files) for name in names]
    except DamagedCheckpoint as error:
        failure = str(error)
    _damaged_together(failure)
    return states


def verify(path: str | Path, manifest: Manifest) -> None:
    """Checks every file, each on one rank; a collective: all ranks return or all raise DamagedCheckpoint."""
    failure = None
    try:
        for name in sorted(manifest.files)[dist.get_rank() :: dist.get_world_size()]:
            _check(Path(path) / name, manifest.files)
    except DamagedCheckpoint as error:
        failure = str(error)
    _damaged_together(failure)


def _damaged_together(failure: str | None) -> None:
    failures = _gather_failures(failure)
    if failures:
        raise DamagedCheckpoint("; ".join(failures))


def _check(path: Path, files: Mapping[str, Any]) -> None:
    try:
        expected = files[path.name]
        if path.stat().st_size != expected["bytes"] or _digest(path) != expected["sha256"]:
            raise DamagedCheckpoint(f"{path} is corrupted: its size or checksum is not the manifest's")
    except (OSError, KeyError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error!r}") from error


def _load_verified(path: Path, files: Mapping[str, Any]) -> Any:
    _check(path, files)
    return torch.load(path, map_location="cpu", weights_only=True)


def present(root: str | Path) -> list[Path]:
    """Checkpoint directories below `root`, newest first; not verified."""
    found = [p for p in Path(root).glob("step-*") if _NAME.fullmatch(p.name)] if Path(root).is_dir() else []
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def path_of(root: str | Path, step: int) -> Path:
    return Path(root) / f"step-{step:06d}"
