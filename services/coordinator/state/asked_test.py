"""What was asked of a run, as the next coordinator finds it."""

import pytest

from penstock.bus import Bucket, Bus, RunNames
from services.coordinator.state.asked import Asked

FACT, OTHER = "version 2 is served, and was rejected: promote it, or roll back", "something else"


async def test_a_run_is_paused_for_a_fact_once_over_restarts_and_resumes_until_it_is_not_so_any_more(
    bus: Bus, names: RunNames
) -> None:
    for fact, paused in ((FACT, True), (FACT, False), (OTHER, True), ("", False), (OTHER, True), ("", False)):
        assert await Asked(bus, names).pause_once(fact) == paused
        assert await Asked(bus, names).pause_once(fact) == paused, (
            "also where an answer was lost, and it is asked again"
        )
        if paused:
            assert (await Asked(bus, names).paused(), await Asked(bus, names).paused_for()) == (True, fact)
            await Asked(bus, names).pause(True, "a trial")
            assert await Asked(bus, names).paused_for() == "a trial"
            await Asked(bus, names).pause(False)
        assert (await Asked(bus, names).paused(), await Asked(bus, names).paused_for()) == (False, "")


@pytest.mark.parametrize("why", ["", "version 1 was rejected by its trial:\n1 tensor is NaN\n"])
async def test_a_pause_is_kept_with_its_reason_in_one_line(bus: Bus, names: RunNames, why: str) -> None:
    await Asked(bus, names).pause(True, why)
    assert (await Asked(bus, names).paused(), await Asked(bus, names).paused_for()) == (
        True,
        " ".join(why.splitlines()),
    )
    assert await Asked(bus, names).pause_once(FACT), "no line of a reason is taken for it"
    await Asked(bus, names).pause_once("")
    assert await Asked(bus, names).paused_for() == FACT, "it is paused until somebody resumes it"


@pytest.mark.parametrize(("value", "paused", "why"), [(b"1", True, ""), (b"1 NaN", True, "NaN"), (b"0", False, "")])
async def test_what_an_older_release_has_kept_is_read(
    bus: Bus, names: RunNames, value: bytes, paused: bool, why: str
) -> None:
    await Bucket(bus, names).put(names.paused_key, value)
    assert (await Asked(bus, names).paused(), await Asked(bus, names).paused_for()) == (paused, why)
    assert await Asked(bus, names).pause_once(FACT)
