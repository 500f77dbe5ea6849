"""Reads a run's three streams, as they are when the reading begins or longer, and audits what they hold.

A run under way goes on meanwhile. The log is read behind the ledger, since a batch names samples that are there; what
came into the log after the reading began may rest on decisions that the ledger had not got when it was read.
"""

from contextlib import aclosing

from penstock.audit.run import Audit, Verdict
from penstock.bus import Bus, Entry, RunNames, load_payload, read, stream_state
from penstock.rules.quarantine import BadEntry


async def read_run(bus: Bus, names: RunNames, max_versions: int, *, copied: bool = False) -> tuple[Audit, Verdict]:
    """The audit of a run and its verdict. Raises NotFound (there is no such run), BusTimeout."""
    audit = Audit(names, max_versions, copied=copied)
    end = (await stream_state(bus, names.log)).last_sequence
    async with aclosing(read(bus, names.ledger, live=False)) as decisions:
        async for entry in decisions:
            audit.decision(entry.subject, entry.payload, entry.sequence)
    async with aclosing(read(bus, names.log, live=False)) as samples:
        async for entry in samples:
            payload = await _payload(bus, names, entry)
            audit.sample(entry.subject, payload, entry.sequence, recent=entry.sequence > end)
    async with aclosing(read(bus, names.tasks, live=False)) as tasks:
        async for entry in tasks:
            audit.task(entry.subject, entry.payload, entry.sequence)
    return audit, audit.verdict((await stream_state(bus, names.log)).first_sequence)


async def _payload(bus: Bus, names: RunNames, entry: Entry) -> bytes | BadEntry:
    try:
        return await load_payload(bus, names, entry.payload)
    except BadEntry as bad:
        return bad
