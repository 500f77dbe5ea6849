"""Who takes part in a run: each process announces itself in the run's bucket, and everybody watches it.

Design: a member is a key that is written again every REFRESH_SECONDS and gone GONE_SECONDS after the last time; who is
asked for work is decided by a pure `View`, and which of several by rendezvous hashing, so that a change of one member
moves no work but its own.
"""

from penstock.members.v1.members_pb2 import Member, MemberState
from penstock.membership.announcer import Announcer, NameTaken, announcing
from penstock.membership.beside import beside
from penstock.membership.hashing import preferred
from penstock.membership.view import GONE_SECONDS, REFRESH_SECONDS, View
from penstock.membership.watcher import Watcher, watching

__all__ = [
    "GONE_SECONDS",
    "REFRESH_SECONDS",
    "Announcer",
    "Member",
    "MemberState",
    "NameTaken",
    "View",
    "Watcher",
    "announcing",
    "beside",
    "preferred",
    "watching",
]
