"""Two minutes of the soak: kills, pauses, a cut network and a full disk, where this user may; every promise holds."""

import pathlib

from tests.chaos.soak import Tally, one


def test_a_disturbed_run_keeps_every_promise(tmp_path: pathlib.Path) -> None:
    tally = Tally()
    tally.add(one(seed=4, faults=14, keep=tmp_path))
    assert not tally.problems, tally.report()
    assert tally.faults.total() == 14 and tally.trained > 0
