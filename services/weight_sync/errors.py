"""Why a push, a fetch or a decision cannot be."""


class StoreError(Exception):
    """A push that cannot be; see the subclasses."""


class AlreadyStored(StoreError):
    """The same version is READY already."""


class Refused(StoreError):
    """The version contradicts what is READY, or comes from a fenced learner."""


class NotStaged(StoreError):
    """No such version is being pushed."""


class NotKept(StoreError):
    """No such version is kept."""


class NoParent(StoreError):
    """The version that a difference is from is not kept, or is no such version."""


class NoDifference(StoreError):
    """There is no way from one version to the other by differences, or none that is shorter than the whole."""


class Incomplete(StoreError):
    """Bytes are missing."""


class NotWritten(StoreError):
    """What is in the file that a learner on this host was to write cannot be taken."""


class NoRoom(StoreError):
    """The disk cannot hold the version."""
