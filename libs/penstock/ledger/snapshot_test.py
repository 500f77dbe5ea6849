"""Whatever a ledger holds and whenever its snapshot is taken, who goes on from it is where all others are."""

import hashlib
import random
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.ledger import BadSnapshot, Fate, Ledger, dump, load
from penstock.ledger.decisions_testing import NAMES, Entry, admit, batch, check, event, failed, filtered, report
from penstock.trajectory.v1 import trajectory_pb2 as pb


class Counted:
    """A fold that counts."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state(self) -> Any:
        return self.count

    def restore(self, state: Any) -> None:
        if not isinstance(state, int):
            raise TypeError(f"{state!r} is no number")
        self.count = state


def history(rng: random.Random, groups: int) -> list[Entry]:
    """A run's decisions, with some that contradict others and some that are none."""
    entries, open_, step = list[Entry](), list[int](), 0
    for number in range(groups):
        entries.append(admit(number))
        open_.append(number)
        while open_ and rng.random() < 0.6:
            match rng.randrange(6):
                case 0:
                    entries.append(filtered(open_.pop(0)))
                case 1:
                    entries.append(failed(open_.pop(0)))
                case 2:
                    entries.append(admit(rng.randrange(number + 1)))
                case 3:
                    entries.append((NAMES.ledger_batch_subject(step + 1), b"\xff"))
                case _:
                    step += 1
                    entries += [batch(step, open_.pop(0)), report(step)]
                    said = pb.EvaluationReport(step=step, samples=2, metrics={"reward": 0.5})
                    if rng.random() < 0.3:
                        entries.append((NAMES.ledger_eval_subject(step), said.SerializeToString()))
    return entries


def known(ledger: Ledger) -> dict[str, Any]:
    """What two ledgers must agree on, whatever either has forgotten."""
    return {
        "samples": ledger.samples,
        "step": ledger.step,
        "sequence": ledger.sequence,
        "next": ledger.next_number,
        "in flight": {n: (g.sequence, g.admitted, g.admitted_at) for n, g in ledger.in_flight.items()},
        "began": ledger.began,
        "failures": ledger.failures,
        "draws": ledger.draws,
        "rewards": ledger.rewards,
        "evaluations": ledger.evaluations,
        "quarantined": ledger.quarantine.counts,
        "refused": ledger.refused,
        "known": [ledger.knows(f"g{n:08d}") for n in range(ledger.next_number + 2)],
        "reported": [ledger.reported(s) for s in range(ledger.forgotten + 1, ledger.step + 2)],
    }


@settings(deadline=None)  # it logs
@given(st.randoms(use_true_random=False), st.integers(1, 30))
def test_whoever_goes_on_from_a_snapshot_is_where_one_is_who_folded_everything(rng: random.Random, groups: int) -> None:
    entries = history(rng, groups)
    whole, other = Ledger(), Ledger()
    for sequence, entry in enumerate(entries, 1):
        whole.apply(*entry, sequence)
        other.apply(*entry, sequence)
        if rng.random() < 0.2:
            other.forget(rng.randint(0, other.step + 1))
            other = load(dump(other, {}))
    ours, theirs = known(whole), known(other)
    ours["reported"] = ours["reported"][other.forgotten :]
    assert ours == theirs
    for held in ("batches", "reports"):
        assert getattr(other, held) == {s: x for s, x in getattr(whole, held).items() if s > other.forgotten}
    kept = {n: g for n, g in whole.groups.items() if g.fate is Fate.IN_FLIGHT or (g.step or 0) > other.forgotten}
    assert other.groups == kept, "groups behind what was forgotten are whole"
    assert {s: gs for s, gs in whole.failed.items() if s > other.forgotten} == other.failed
    check(whole)


def test_what_is_forgotten_stays_decided() -> None:
    ledger = Ledger()
    for sequence, entry in enumerate([admit(0), admit(1), batch(1, 0), report(1), admit(2)], 1):
        ledger.apply(*entry, sequence)
    ledger.forget(1)
    assert list(ledger.groups) == ["g00000001", "g00000002"] and ledger.knows("g00000000")
    before = ledger.samples.trained
    for sequence, entry in enumerate([admit(0), filtered(0), failed(0), batch(1, 0), batch(2, 0), report(1)], 6):
        ledger.apply(*entry, sequence)
    assert ledger.quarantine.counts["ledger"] == 5, "all but the report, which was said before"
    assert (ledger.samples.trained, ledger.step, ledger.reported(1), ledger.reports) == (before, 1, True, {})


def test_memory_does_not_grow_with_what_is_forgotten() -> None:
    ledger, sizes = Ledger(), []
    for number in range(2000):
        for entry in (admit(number), batch(number + 1, number), report(number + 1)):
            ledger.apply(*entry, ledger.sequence + 1)
        ledger.forget(ledger.step - 10)
        if number in (199, 1999):
            sizes.append((len(ledger.groups), len(ledger.batches), len(ledger.reports), len(dump(ledger, {})) // 100))
    assert sizes[0][:3] == sizes[1][:3] and abs(sizes[0][3] - sizes[1][3]) <= 2, sizes


def test_folds_take_up_their_state_or_are_as_they_were() -> None:
    ledger, fold = Ledger(), Counted(3)
    ledger.apply(*event(pb.LedgerEvent(group="g00000000", admitted=pb.Admitted(group_size=2))), 1)
    raw = dump(ledger, {"counted": fold})
    other = Counted(5)
    load(raw, {"counted": other})
    assert other.count == 3
    for folds in ({"counted": Counted(5), "more": Counted(6)}, {"odd": Counted(5)}):
        with pytest.raises(BadSnapshot, match="it is of counted"):
            load(raw, folds)
        assert [f.count for f in folds.values()] == [5, 6][: len(folds)]


def test_bytes_that_were_cut_or_changed_are_no_snapshot() -> None:
    raw, rng = dump(Ledger(), {}), random.Random(1)
    for _ in range(200):
        changed = bytearray(raw[: rng.randint(0, len(raw))])
        if len(changed) == len(raw):
            changed[rng.randrange(len(raw))] ^= 1 + rng.randrange(255)
        with pytest.raises(BadSnapshot):
            load(bytes(changed))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"nothing", b'{"format": 2}', b'{"format": 1}', b'{"format": 1, "groups": [{}]}']
)
def test_what_another_release_wrote_is_no_snapshot(text: bytes) -> None:
    packed = zlib.compress(text)
    with pytest.raises(BadSnapshot):
        load(hashlib.sha256(packed).hexdigest().encode() + b"\n" + packed)
