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
        found = await self._batch(step)
        return None if found is None else found[1]

    async def reports(self, after: int, count: int) -> list[pb.StepReport]:
        """The first `count` reports of steps behind `after`, in order."""
        found = dict[int, pb.StepReport]()
        if after < self._ledger.forgotten:
            entry = await last_entry(self._bus, self._names.ledger, self._names.ledger_step_subject(after))
            start = entry.sequence if entry is not None else 0
            subjects = self._names.subjects("ledger").replace(">", "step.*")
            async with aclosing(self._said(subjects, start)) as decisions:
                async for _, decision in decisions:
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
        alone, trained = Ledger(), await self._trained(name)
        async for sequence, decision in self._said(self._names.ledger_group_subject(name)):
            if trained is not None and sequence > trained[0]:
                break
            if isinstance(decision, pb.LedgerEvent) and (name in alone.groups) != decision.HasField("admitted"):
                alone.apply_event(decision, sequence)
            if name in alone.groups and name not in alone.in_flight:
                return alone.groups[name]
        group = alone.groups.get(name)
        if group is not None and trained is not None:
            group.fate, group.step = Fate.TRAINED, trained[1].step
        return group

    async def _batch(self, step: int) -> tuple[int, pb.BatchRecord] | None:
        """A batch and its sequence: the first behind what was set aside before it, else the first."""
        subject = self._names.ledger_batch_subject(step)
        said = [(at, each) async for at, each in self._said(subject) if isinstance(each, pb.BatchRecord)]
        behind = [each for each in said if each[0] > self._ledger.refused.get(subject, 0)]
        return next(iter(behind or said), None)

    async def _trained(self, name: str) -> tuple[int, pb.BatchRecord] | None:
        """The batch that has the group, and its sequence."""
        low, high = 1, self._ledger.forgotten
        while low <= high:
            step = (low + high) // 2
            found = await self._batch(step)
            names = [part.group for part in found[1].groups] if found is not None else []
            if name in names:
                return found
            low, high = (step + 1, high) if not names or max(names) < name else (low, step - 1)
        return None

    async def _said(self, subjects: str, after: int = 0) -> AsyncGenerator[tuple[int, Decision], None]:
        """The decisions under these subjects and their sequences, without those that are none."""
        async with aclosing(read(self._bus, self._names.ledger, after=after, subjects=subjects, live=False)) as entries:
            async for entry in entries:
                try:
                    yield entry.sequence, read_decision(entry.subject, entry.payload)
                except BadEntry:
                    continue
