"""Trials of versions that nobody could hold are refused in one sentence."""

from typing import Any

import pytest

from penstock.recipes import resolve
from penstock.recipes.refusals_testing import problems


def test_a_trial_with_the_engines_and_tasks_it_needs_is_taken(raw: dict[str, Any]) -> None:
    raw["data"]["eval"] = raw["data"]["train"]
    canary = resolve(raw, ["weight_sync.canary={samples: 8}"]).canary
    assert canary is not None and (canary.replicas, canary.samples, canary.on_reject) == (1, 8, "pause")
    assert resolve(raw, []).canary is None
    assert resolve(raw, ["weight_sync.canary={}", "mode=evaluate"]).canary is None


@pytest.mark.parametrize(
    ("evaluated", "wanted", "sentence"),
    [
        (
            False,
            "{}",
            "weight_sync.canary: versions are tried on held-out tasks, and this run plays none; set data.eval",
        ),
        (True, "{replicas: 3}", "weight_sync.canary.replicas: 3 of 1 engines; use 1 or fewer, or raise"),
        (True, "{on_reject: continue}", "which staleness.max_versions 0 forbids; use 1 or more, or pause"),
        (True, "{seconds: 0}", "weight_sync.canary.seconds"),
        (True, "{replica: 1}", "weight_sync.canary.replica"),
    ],
)
def test_one_that_cannot_be_is_refused_in_one_sentence(
    raw: dict[str, Any], evaluated: bool, wanted: str, sentence: str
) -> None:
    if evaluated:
        raw["data"]["eval"] = raw["data"]["train"]
    found = problems(raw, f"weight_sync.canary={wanted}", "staleness.max_versions=0")
    assert sentence in found and len(found.splitlines()) == 1


def test_demonstrations_alone_have_no_engine_that_could_take_one(raw: dict[str, Any]) -> None:
    del raw["environment"]
    raw["algorithm"]["name"] = "sft"
    raw["data"]["eval"] = raw["data"]["train"]
    assert "this run plays none" in problems(raw, "weight_sync.canary={}")
