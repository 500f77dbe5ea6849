"""Which differences lead from one version to another. Pure.

Every version names the one it was pushed as a difference from, its parent; so the way is found from its end.

Invariant (test name): a chain begins at exactly the version that the receiver has, and is shorter than the whole.
"""

from collections.abc import Callable

from penstock.common.v1.common_pb2 import PolicyVersion
from penstock.differences import layout_of
from penstock.weights.v1 import weights_pb2 as pb
from services.weight_sync.disk.files import Stored
from services.weight_sync.errors import NoDifference, NoParent, NotKept

Get = Callable[[PolicyVersion], Stored | None]
"""A kept version, by step and epoch."""


def parent_of(get: Get, manifest: pb.Manifest) -> Stored:
    """What a version being pushed is a difference from. Raises NoParent."""
    step, parent = manifest.version.step, manifest.parent
    if not manifest.HasField("parent"):
        raise NoParent(f"step {step} differs from nothing: its manifest names no parent")
    stored = get(parent)
    if stored is None or stored.manifest.version.digest != parent.digest:
        named = f"step {parent.step} of epoch {parent.epoch}"
        raise NoParent(f"step {step} differs from {named}, which is not kept with that digest")
    if layout_of(stored.manifest) != layout_of(manifest):
        raise NoParent(f"step {step} has other tensors than step {parent.step}")
    return stored


def chain(get: Get, version: PolicyVersion, held: PolicyVersion) -> list[memoryview]:
    """What makes a version of the one that a receiver has, in order; nothing where it has that.

    Raises NotKept, NoDifference.
    """
    last = stored = get(version)
    if last is None:
        raise NotKept(f"step {version.step} of epoch {version.epoch} is unknown or retired")
    found, at = list[memoryview](), last.manifest.version
    while at != held:
        if stored is None or stored.manifest.version != at or stored.difference is None:
            raise NoDifference(f"no differences lead from step {held.step} to step {version.step}")
        found.append(stored.difference)
        if sum(each.nbytes for each in found) >= last.manifest.total_size:
            raise NoDifference(f"the differences from step {held.step} are not shorter than step {version.step}")
        at = stored.manifest.parent
        stored = get(at) if at.step < stored.manifest.version.step else None
    return found[::-1]
