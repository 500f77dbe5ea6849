"""The table of methods against the protos, and what it must never give away."""

import importlib
import pathlib
from collections.abc import Iterator

from google.protobuf.descriptor import MethodDescriptor

import penstock
from penstock.access import KINDS, LARGEST, METHODS, QUOTAS
from penstock.diagnostics.v1 import diagnostics_pb2


def methods() -> Iterator[MethodDescriptor]:
    """Every method of every proto, found by its file."""
    for folder in penstock.__path__:
        for path in sorted(pathlib.Path(folder).rglob("*_pb2.py")):
            module = ".".join(("penstock", *path.relative_to(folder).with_suffix("").parts))
            for service in importlib.import_module(module).DESCRIPTOR.services_by_name.values():
                yield from service.methods


def test_every_method_of_every_service_has_a_row_and_every_row_its_method() -> None:
    found = {f"{each.containing_service.full_name}/{each.name}" for each in methods()}
    (waits,) = diagnostics_pb2.DESCRIPTOR.services_by_name.values()
    assert found > {f"{waits.full_name}/ListWaits"} and found == set(METHODS)


def test_rights_that_must_not_be_given_away() -> None:
    may = {kind: {m.rpartition("/")[2] for m, rule in METHODS.items() if kind in rule.callers} for kind in KINDS}
    assert not may["environment"] and not may["reward_model"] and not may["weight_sync"]
    fetching = {"WatchVersions", "ListVersions", "GetManifest", "FetchTensors", "OpenBulk", "FetchDifference"}
    assert may["relay"] == fetching, "as an engine does, and what it may keep"
    pushing = ("BeginVersion", "PushTensors", "OpenPush", "PushDifference", "CommitVersion", "AbortVersion")
    for kind in KINDS:
        assert may[kind].isdisjoint(pushing) or kind == "learner"
        assert may[kind].isdisjoint(("StopRun", "PauseRun", "ResumeRun")) or kind == "operator"
    assert all(rule.callers and 0 < rule.bytes <= LARGEST for rule in METHODS.values())
    assert set(QUOTAS) == set(KINDS)
