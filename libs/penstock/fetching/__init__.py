"""A version of the policy fetched onto this host: from weight_sync, or from a relay that is near; checked, resumable.

Hands     what a receiver has of versions, and the shortest way to the next one
Relays    the run's relays as one receiver sees them: the nearest is asked first, and costs nothing where it fails
told_of   what weight_sync tells a receiver, for ever
"""

from penstock.fetching.bulk import AGAIN_SECONDS, Bulk, connected, host_of, moving
from penstock.fetching.hands import Hands, Held, led_on
from penstock.fetching.relays import Relays
from penstock.fetching.source import ANSWER_SECONDS, FETCHING, Source
from penstock.fetching.telling import told_of
from penstock.fetching.whole import AnotherModel, FetchFailed, bytes_received, described, failing, fetch_whole

__all__ = [
    "AGAIN_SECONDS",
    "ANSWER_SECONDS",
    "FETCHING",
    "AnotherModel",
    "Bulk",
    "FetchFailed",
    "Hands",
    "Held",
    "Relays",
    "Source",
    "bytes_received",
    "connected",
    "described",
    "failing",
    "fetch_whole",
    "host_of",
    "led_on",
    "moving",
    "told_of",
]
