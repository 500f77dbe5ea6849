"""The versions this process holds: staged, verified, served, retired. Files on local disk or tmpfs.

    begin -> STAGING -> (pushing/staging.py) -> commit -> READY -> (newer ones come) -> RETIRED

What else may become of a committed version is in `lifecycle.py`, and on disk by `decisions.py`.

A version is two files: <step>-<epoch>.bin, the tensors' bytes in the manifest's order, and <step>-<epoch>.manifest,
renamed into place last. Without a manifest a version does not exist, so a crash in mid-push leaves nothing visible. One
that was pushed as a difference from the version before it has this beside it, <step>-<epoch>.difference, for receivers
that have that version.

Invariants (test names): a half-pushed version is never visible; the newest kept step never goes down; an older
learner's incarnation is refused; no version is so new that none could come after it; what is served is not retired.
"""

import copy
import logging
import pathlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from google.protobuf.message import DecodeError

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.rules import bounds
from penstock.tensors import ManifestError, check_manifest
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.chains import chain
from services.weight_sync.disk.files import Stored, mapped, opened, opened_checked
from services.weight_sync.errors import AlreadyStored, Incomplete, NoRoom, NotKept, Refused
from services.weight_sync.pushing.staging import Staging, stem
from services.weight_sync.standing import decisions
from services.weight_sync.standing.examining import wrong_with
from services.weight_sync.standing.lifecycle import Lifecycle, NothingLeft

logger = logging.getLogger(__name__)

QUOTA = 512 << 30


class VersionStore:
    """The versions below `directory`, `keep` committed ones and the one that is served. Not safe for concurrent pushes
    of one version.

    quota: bytes that versions being pushed may take together. tries: whether versions are tried before they are served.
    follows: whether it has what another store has, which says what is next: an older one after a rollback.
    """

    def __init__(
        self, directory: pathlib.Path, keep: int, quota: int = QUOTA, tries: bool = False, follows: bool = False
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._keep, self._tries, self._follows = directory, keep, tries, follows
        self._retired: list[pb.VersionInfo] = []
        self._stored: dict[int, Stored] = {}
        self._life = Lifecycle(tries)
        self._clear()
        self.staging = Staging(directory, self.get, quota)
        self._restore()

    @property
    def newest(self) -> PolicyVersion | None:
        """The newest version that was committed, whatever was decided of it since."""
        return self._stored[max(self._stored)].manifest.version if self._stored else None

    def served(self, ceiling: int | None = None) -> PolicyVersion | None:
        """The newest READY version whose step is at most `ceiling` (None: no bound)."""
        step = self._life.served(ceiling)
        return self._stored[step].manifest.version if step is not None else None

    def trying(self, ceiling: int | None = None) -> PolicyVersion | None:
        """The version on trial; a new one is at most `ceiling` (None: no bound). That one is goes to the disk before
        anybody is told: a restart goes on with it."""
        if self._life.next_trial(ceiling) is not None:
            try:
                with self._deciding():
                    self._life.trying(ceiling)
            except OSError as error:
                logger.warning("disk full: the trial of a version does not begin yet (%s)", error.strerror)
        step = self._life.on_trial
        return self._stored[step].manifest.version if step is not None else None

    @property
    def rolled_back(self) -> bool:
        """Whether a rollback stands: what is committed waits for a promotion."""
        return self._life.rolled_back

    def ready(self, version: PolicyVersion) -> bool:
        """Whether a version is kept and READY."""
        return self.get(version) is not None and self._life.ready(version.step)

    def decide(self, step: int, decision: pb.Decision, reason: str, *, verdict: bool = False) -> None:
        """Decides of a kept version, for good: on disk before it counts. verdict: whether by its trial, which must be
        under way. Raises NotKept, Refused, NoRoom."""
        if step not in self._stored:
            kept = ", ".join(map(str, sorted(self._stored))) or "none"
            raise NotKept(f"version {step} is not kept (kept: {kept})")
        if verdict and step != self._life.on_trial:
            raise Refused(f"version {step} is not on trial any more: somebody decided meanwhile")
        try:
            with self._deciding():
                self._life.decide(step, decision, reason)
        except NothingLeft as error:
            raise Refused(str(error)) from error
        except OSError as error:
            raise NoRoom(f"disk full: what is decided of version {step} cannot be kept ({error.strerror})") from error

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        """What the block changes of the lifecycle is on the disk before it counts. Raises OSError; after that, and
        after NothingLeft, nothing has changed."""
        before = copy.deepcopy(self._life)
        try:
            yield
            decisions.write(self._directory, self._life)
        except (NothingLeft, OSError):
            self._life = before
            raise

    def get(self, version: PolicyVersion) -> Stored | None:
        """A committed version, by step and epoch."""
        stored = self._stored.get(version.step)
        return stored if stored is not None and stored.manifest.version.epoch == version.epoch else None

    def begin(self, manifest: pb.Manifest) -> int:
        """Opens a version, and gives the attempt's number; what was staged of it before is discarded. Raises StoreError
        or tensors.ManifestError."""
        check_manifest(manifest)
        version, newest = manifest.version, self.newest
        if newest is not None:
            held = self._stored.get(version.step)
            if version.epoch >= newest.epoch and held is not None and held.manifest.version.digest == version.digest:
                raise AlreadyStored(f"step {version.step} is READY with this digest")
        self._check_is_next(version)
        return self.staging.begin(manifest)

    def differences(self, version: PolicyVersion, held: PolicyVersion) -> list[memoryview]:
        """What makes a version of the one that a receiver has. Raises NotKept, NoDifference."""
        return chain(self.get, version, held)

    def examine(self, version: PolicyVersion) -> str:
        """What is wrong with a staged version whose bytes have all come, as a sentence: bytes that are not on the disk
        as they came, or numbers that are not finite. Empty if nothing is, or none are tried."""
        if not self._tries or not self.staging.has(version):
            return ""
        staged = self.staging.find(version)
        if not staged.complete:
            return ""
        return wrong_with(staged.manifest, mapped(staged.path, staged.manifest.total_size))

    def commit(self, version: PolicyVersion, held: int | None = None, wrong: str = "") -> PolicyVersion:
        """Makes a staged version READY, or VERIFIED behind a rollback or before its trial. Committing one again changes
        nothing.

        After NoRoom it is staged as before. Raises NotWritten where what was written on this host may have changed
        since it was taken; Incomplete, NotStaged, Refused.

        `held`: the step receivers are held at, if they are: the version they use there is not retired meanwhile.
        `wrong`: what `examine` says of it; then it is REJECTED.
        """
        if not self.staging.has(version) and self.get(version) is not None:
            return version
        self._check_is_next(version)  # a newer learner may have committed since the push began
        staged = self.staging.find(version)
        if not staged.complete:
            raise Incomplete(f"{staged.came} of {staged.manifest.total_size} bytes received")
        self.staging.check_held(staged)
        final = self._path(version).with_suffix(".bin")
        temporary = final.with_suffix(".manifest.staging")
        self._life.commit(version.step, wrong)
        try:
            temporary.write_bytes(staged.manifest.SerializeToString())
            if wrong:
                decisions.write(self._directory, self._life)
        except OSError as error:
            self._life.forget(version.step)
            temporary.unlink(missing_ok=True)
            why = f"the version store cannot hold the manifest of step {version.step} ({error.strerror})"
            raise NoRoom(f"disk full: {why}") from error
        staged.path.rename(final)
        if staged.applied:
            staged.difference_path.rename(final.with_suffix(".difference"))
        temporary.rename(final.with_suffix(".manifest"))
        self.staging.committed(version)
        self._stored[version.step] = opened(staged.manifest, final, staged.way)
        self._retire(held)
        return staged.manifest.version

    def keep_only(self, others: Collection[tuple[int, int, bytes]]) -> None:
        """Retires what another store has not: its versions' step, epoch and digest."""
        for step, stored in sorted(self._stored.items()):
            version = stored.manifest.version
            if (step, version.epoch, version.digest) not in others:
                self._drop(step)

    def infos(self) -> list[pb.VersionInfo]:
        """Every known version, newest first."""
        kept = [self._kept_info(stored) for stored in self._stored.values()]
        staging = [self._info(m, pb.VERSION_STATE_STAGING) for m in self.staging.manifests]
        return sorted([*kept, *staging, *self._retired], key=lambda i: i.version.step, reverse=True)

    def _clear(self) -> None:
        """Removes what was being pushed when a process before this one ended."""
        for partial in self._directory.glob("*.staging"):
            partial.unlink()

    def _restore(self) -> None:
        """Takes up the versions that are whole; what a crash or a power cut left of others is removed."""
        for path in self._directory.glob("*.manifest"):
            try:
                manifest = pb.Manifest.FromString(path.read_bytes())
                check_manifest(manifest)
                self._stored[manifest.version.step] = opened_checked(manifest, path.with_suffix(".bin"))
            except (DecodeError, ManifestError, OSError, ValueError) as error:
                logger.warning("a damaged version is removed: %s: %s", path.name, error)
                path.unlink()
        for path in [*self._directory.glob("*.bin"), *self._directory.glob("*.difference")]:
            if not path.with_suffix(".manifest").exists():
                path.unlink()
        self._life = decisions.read(self._directory, self._stored, self._tries)
        self._retire(None)

    def _check_is_next(self, version: PolicyVersion) -> None:
        if self._follows:
            return
        newest = self.newest or PolicyVersion()
        if version.epoch > newest.epoch + bounds.LEAP or version.step > newest.step + bounds.LEAP:
            raise Refused(
                f"step {version.step} of epoch {version.epoch} is more than {bounds.LEAP} beyond step {newest.step} of "
                f"epoch {newest.epoch}: no learner could follow it"
            )
        if self.newest is None:
            return
        if version.epoch < newest.epoch:
            raise Refused(f"epoch {version.epoch} is fenced: a learner of epoch {newest.epoch} has published since")
        if version.step <= newest.step:
            raise Refused(f"step {version.step} is not after step {newest.step}, which was committed")

    def _retire(self, held: int | None) -> None:
        in_use = {self._life.served(), self._life.on_trial, self._life.waiting(held)}
        in_use |= {None if held is None else self._life.served(held)}
        for step in sorted(self._stored)[: -self._keep]:
            if step not in in_use:
                self._drop(step)

    def _drop(self, step: int) -> None:
        stored = self._stored.pop(step)
        self._life.forget(step)
        stored.path.with_suffix(".manifest").unlink(missing_ok=True)
        self.staging.spare.keep(stored.path)
        stored.path.with_suffix(".difference").unlink(missing_ok=True)
        self._retired = [*self._retired[-63:], self._info(stored.manifest, pb.VERSION_STATE_RETIRED)]

    def _path(self, version: PolicyVersion) -> pathlib.Path:
        return self._directory / stem(version)

    def _kept_info(self, stored: Stored) -> pb.VersionInfo:
        standing = self._life.standing(stored.manifest.version.step)
        info = self._info(stored.manifest, standing.state)
        info.reason, info.path = standing.reason, stored.way
        info.ended_trials = self._life.ended.get(stored.manifest.version.step, 0)
        info.difference = stored.difference.nbytes if stored.difference is not None else 0
        return info

    @staticmethod
    def _info(manifest: pb.Manifest, state: pb.VersionState) -> pb.VersionInfo:
        return pb.VersionInfo(
            version=manifest.version, state=state, size=manifest.total_size, created_at=manifest.created_at
        )
