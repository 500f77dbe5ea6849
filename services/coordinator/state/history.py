"""What the coordinator's memory has forgotten of a run, read from the ledger's stream.

The first word about a step stands, as in the fold. Batches are formed in admission order, so that which one trained a
group is found by halving.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from penstock.bus import Bus, RunNames, last_entry, read
from penstock.ledger import Fate, Group, Ledger
from penstock.ledger.entries import Decision, read_decision
from penstock.rules.quarantine import BadEntry
from penstock.trajectory.v1 import trajectory_pb2 as pb


class History:
    """The stream of one run. `ledger` is what is in memory; the past is asked for only where that has forgotten it."""

    def __init__(self, bus: Bus, names: RunNames, ledger: Ledger) -> None:
        self._bus, self._names, self._ledger = bus, names, ledger

    async def batch(self, step: int) -> pb.BatchRecord | None:
        """The batch of a step; None where there is none."""
        if step > self._ledger.forgotten:
            return self._ledger.batches.get(step)
        async for decision in self._said(self._names.ledger_batch_subject(step)):
            if isinstance(decision, pb.BatchRecord):
                return decision
        return None

    async def reports(self, after: int, count: int) -> list[pb.StepReport]:
        """The first `count` reports of steps behind `after`, in order."""
        found = dict[int, pb.StepReport]()
        if after < self._ledger.forgotten:
            entry = await last_entry(self._bus, self._names.ledger, self._names.ledger_step_subject(after))
            start = entry.sequence if entry is not None else 0
            subjects = self._names.subjects("ledger").replace(">", "step.*")
            async with aclosing(self._said(subjects, start)) as decisions:
                async for decision in decisions:
                    if isinstance(decision, pb.StepReport) and decision.step > after:
                        found.setdefault(decision.step, decision)
                    if len(found) >= count:
                        break
        held = {s: r for s, r in self._ledger.reports.items() if s > after}
        return [r for _, r in sorted({**held, **found}.items())][:count]

    async def group(self, name: str) -> Group | None:
        """A group that was admitted; None if it was not."""
        if not self._ledger.knows(name) or name in self._ledger.groups:
            return self._ledger.groups.get(name)
        alone, sequence = Ledger(), 0
        async for decision in self._said(self._names.ledger_group_subject(name)):
            if isinstance(decision, pb.LedgerEvent) and (sequence == 0) == decision.HasField("admitted"):
                alone.apply_event(decision, sequence := sequence + 1)
            if sequence == 2:
                break
        group = alone.groups.get(name)
        if group is not None and group.fate is Fate.IN_FLIGHT:
            group.step = await self._trained(name)
            group.fate = Fate.TRAINED
        return group

    async def _trained(self, name: str) -> int | None:
        """The step whose batch has the group."""
        low, high = 1, self._ledger.forgotten
        while low <= high:
            step = (low + high) // 2
            record = await self.batch(step)
            names = [part.group for part in record.groups] if record is not None else []
            if name in names:
                return step
            low, high = (step + 1, high) if not names or max(names) < name else (low, step - 1)
        return None

    async def _said(self, subjects: str, after: int = 0) -> AsyncGenerator[Decision, None]:
        """The decisions under these subjects, without those that are none."""
        async with aclosing(read(self._bus, self._names.ledger, after=after, subjects=subjects, live=False)) as entries:
            async for entry in entries:
                try:
                    yield read_decision(entry.subject, entry.payload)
                except BadEntry:
                    continue
