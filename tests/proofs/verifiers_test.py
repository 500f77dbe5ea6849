"""An environment package of verifiers, unmodified: a policy that is trained in it improves."""

import pathlib

from tests.proofs.proving_testing import learned, packaged, sorting, trained, warmed_up


def test_a_policy_learns_an_environment_package_of_verifiers(tmp_path: pathlib.Path) -> None:
    assets = tmp_path / "assets"
    model, packages = sorting(assets), packaged(tmp_path, "adapters", "verifiers_sorting")
    start = warmed_up(tmp_path, "quickstart-sft", model, f"data.train={assets / 'sft.jsonl'}")
    learned(trained(tmp_path, "agents/verifiers", start, f"packages.folder={packages}"), by=0.1)
