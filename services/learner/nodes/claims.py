"""Which node of the learner a process is: what it is told, else the first number that nobody alive has.

    --node-rank, else Kubernetes' JOB_COMPLETION_INDEX or a StatefulSet's ordinal, else first come, first served

Whoever has a number keeps it over its restarts, since a number is held by an instance's name. Who finds none free
waits, and takes the place of the first that is lost.

Invariant (test name): two nodes that are alive never have one number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from services.learner.nodes.standing import Node


def told_rank(flag: int | None, environment: Mapping[str, str], host: str, nodes: int) -> int | None:
    """The number that a process is told; None where nobody tells it. Raises ValueError for one that is none."""
    index = environment.get("JOB_COMPLETION_INDEX", "")
    ordinal = re.search(r"-(\d+)$", host) if "KUBERNETES_SERVICE_HOST" in environment else None
    if flag is not None:
        rank, by = flag, "--node-rank"
    elif index.isdigit():
        rank, by = int(index), "JOB_COMPLETION_INDEX"
    elif ordinal is not None:
        rank, by = int(ordinal[1]), f"the pod's name {host}"
    else:
        return None
    if not 0 <= rank < nodes:
        raise ValueError(f"{by}: {rank} is none of learner.nodes {nodes}, which are 0 to {nodes - 1}")
    return rank


def free(held: Mapping[int, Node], count: int, instance: str, alive: frozenset[str]) -> int | None:
    """The number that an instance may take; None where all are held by others that are alive."""
    own = next((rank for rank, node in held.items() if node.instance == instance), None)
    if own is not None:
        return own
    return next((r for r in range(count) if r not in held or held[r].instance not in alive), None)
