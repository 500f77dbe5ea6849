"""What a weight_sync of these tests is not asked: generated code answers UNIMPLEMENTED, and only its stubs call them
abstract. Each test's own has the methods that a learner calls."""

from typing import Any, ClassVar

from penstock.weights.v1 import weights_pb2_grpc


class Unasked(weights_pb2_grpc.WeightSyncServiceServicer):
    """A base of servicers."""

    AbortVersion: ClassVar[Any]
    DecideVersion: ClassVar[Any]
    FetchDifference: ClassVar[Any]
    FetchTensors: ClassVar[Any]
    GetManifest: ClassVar[Any]
    HoldVersions: ClassVar[Any]
    ListVersions: ClassVar[Any]
    OpenBulk: ClassVar[Any]
    OpenPush: ClassVar[Any]
    PushDifference: ClassVar[Any]
    ReleaseHold: ClassVar[Any]
    ReportApplied: ClassVar[Any]
    WatchVersions: ClassVar[Any]
