"""A tool-using agent of smolagents, unmodified, is trained and improves."""

import pathlib

from tests.proofs.proving_testing import demonstrated, learned, packaged, trained, warmed_up


def test_an_agent_of_smolagents_learns(tmp_path: pathlib.Path) -> None:
    model, packages = demonstrated(tmp_path, "smolagents"), packaged(tmp_path, "environment", "agents_of_others")
    shown = f"data.train={tmp_path / 'sft.jsonl'}"
    start = warmed_up(tmp_path, "agents/warm-up", model, shown, "algorithm.steps=300")
    rows = (f"data.train={tmp_path / 'train.jsonl'}", f"data.eval={tmp_path / 'eval.jsonl'}")
    learned(trained(tmp_path, "agents/smolagents", start, *rows, f"packages.folder={packages}"), by=0.1)
