"""The ranks of one node as one process: torchrun's agent, and one sentence on why the group ended.

    launch(2, [python, -m, services.learner, …])
        0   every rank ended well
        2   a rank found that it cannot go on (bad recipe, …): starting it again would end the same way
        1   a rank died or hung: start it again, it goes on from its checkpoint
        4   the kernel killed a rank for lack of memory

torchrun itself would do, but for its exit code, which is 1 whatever happened, and its words, which are a page. Where
there are several nodes (`meeting.Meeting`) each has a launcher, and what it says of an end goes into a file, too.

When one rank ends badly the agent ends the others (SIGTERM, then SIGKILL). Their deaths say nothing, and a collective
that failed because its peer was gone says little. The cause is looked for in this order: a rank that others found hung,
a rank that cannot go on, a rank that a signal killed, the earliest exception.
"""

import contextlib
import json
import logging
import pathlib
import signal
import uuid
from collections.abc import Mapping, Sequence

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from penstock.system import exits
from penstock.system.memory_kills import OUT_OF_MEMORY, how_it_ended, memory_kills
from services.learner.ranks.meeting import Meeting, meeting

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 10


def launch(ranks: int, command: Sequence[str]) -> int:
    """Runs `command` on every rank of this node until all have ended; the exit code (see above)."""
    kills, place = memory_kills(), Meeting.here()
    nodes = 1 if place is None else place.nodes
    if lacking := too_few(ranks, torch.cuda.device_count()):
        log.error("cannot start: %s", lacking)
        if place is not None:
            pathlib.Path(place.said).write_text(json.dumps({"text": lacking, "weight": 1}))
        return exits.BAD_INPUT
    try:
        with meeting() as rendezvous:
            config = LaunchConfig(
                min_nodes=nodes,
                max_nodes=nodes,
                nproc_per_node=ranks,
                run_id=uuid.uuid4().hex,
                rdzv_backend=rendezvous,
                max_restarts=0,  # the supervisor starts the group again: nothing of the old one can linger
                shutdown_timeout=SHUTDOWN_SECONDS,
            )
            elastic_launch(config, command[0])(*command[1:])
            if place is not None:
                _leave_together(place)
    except ChildFailedError as error:
        text, weight = reason(error.failures, kills)
        log.error("%s", text)
        if place is not None:
            pathlib.Path(place.said).write_text(json.dumps({"text": text, "weight": weight}))
        starved = any(how_it_ended(f.exitcode, kills) == OUT_OF_MEMORY for f in error.failures.values())
        if starved:
            return exits.OUT_OF_MEMORY
        cannot = any(f.exitcode == exits.BAD_INPUT for f in error.failures.values())
        return exits.BAD_INPUT if cannot else exits.FAILED
    except SignalException as error:
        log.info("ended by signal %d", error.sigval)
        return 128 + int(error.sigval)
    return 0


def too_few(ranks: int, there: int) -> str:
    """Why so many ranks cannot run on a host that gives so many GPUs; empty where they can. None at all: they compute
    on the CPU."""
    if not 0 < there < ranks:
        return ""
    return (
        f"learner.ranks: {ranks} ranks on this host want a GPU each, and it gives {there}; set learner.ranks to "
        f"{there} for each node, or give it more (learner.devices, CUDA_VISIBLE_DEVICES)"
    )


def _leave_together(place: Meeting) -> None:
    """Waits until every launcher is through: the store that they leave by is node 0's, and ends with its launcher."""
    with contextlib.suppress(RuntimeError):  # all ranks ended well, whoever does not hear of it
        store = place.store("left")
        store.set(str(place.rank), "1")
        store.wait([str(rank) for rank in range(place.nodes)])


def reason(failures: Mapping[int, ProcessFailure], kills_before: int) -> tuple[str, int]:
    """Why the group ended, naming the rank that began it, and how far that may be the consequence of another end.

    kills_before: `memory_kills` when it was started.
    """
    rank, failure = min(failures.items(), key=lambda item: (_weight(item[1]), item[1].timestamp))
    words, weight = " ".join(_words(failure).split()), _weight(failure)
    if failure.exitcode == exits.RANK_LOST:
        return f"{words}; the group was ended", weight
    if failure.exitcode < 0:
        how = how_it_ended(failure.exitcode, kills_before)
        return f"rank {rank} (process {failure.pid}) {how}; the group was ended", weight
    text = f"rank {rank} (process {failure.pid}) ended with code {failure.exitcode}: {words}; the group was ended"
    return text, weight


def _weight(failure: ProcessFailure) -> int:
    if failure.exitcode == exits.RANK_LOST:
        return 0
    if failure.exitcode == exits.BAD_INPUT:
        return 1
    if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
        return 2
    return 3 if failure.exitcode > 0 else 4


def _words(failure: ProcessFailure) -> str:
    message = failure.message
    return str(message.get("message", message)) if isinstance(message, dict) else str(message)
