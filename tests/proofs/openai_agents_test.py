"""A tool-using agent of OpenAI's Agents SDK, unmodified, is trained and improves."""

import pathlib

from tests.proofs.proving_testing import demonstrated, learned, packaged, trained, warmed_up


def test_an_agent_of_openais_agents_sdk_learns(tmp_path: pathlib.Path) -> None:
    model, packages = demonstrated(tmp_path, "sdk"), packaged(tmp_path, "environment", "agents_of_others")
    start = warmed_up(tmp_path, "agents/warm-up", model, f"data.train={tmp_path / 'sft.jsonl'}")
    rows = (f"data.train={tmp_path / 'train.jsonl'}", f"data.eval={tmp_path / 'eval.jsonl'}")
    learned(trained(tmp_path, "agents/openai-agents", start, *rows, f"packages.folder={packages}"), by=0.1)
