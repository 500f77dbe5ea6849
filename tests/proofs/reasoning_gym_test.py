"""A data set of reasoning_gym, scored by its own scorer: a policy that is trained on it improves."""

import pathlib

from tests.proofs.proving_testing import demonstrated, learned, trained, warmed_up


def test_a_policy_learns_a_data_set_of_reasoning_gym(tmp_path: pathlib.Path) -> None:
    model = demonstrated(tmp_path, "reasoning_gym")
    shown = f"data.train={tmp_path / 'sft.jsonl'}"
    start = warmed_up(tmp_path, "agents/warm-up", model, shown, "algorithm.steps=500")
    learned(trained(tmp_path, "agents/reasoning-gym", start), by=0.1)
