"""Who was started in another host's environment says so."""

import pytest

from penstock.process.accelerator import wrong_accelerator


@pytest.mark.parametrize(("torch", "gpus"), [("2.13.0+cpu", 0), ("2.13.0+cpu", 8), ("2.13.0", 1), ("2.13.0+cu130", 2)])
def test_an_environment_that_can_compute_is_let(torch: str, gpus: int) -> None:
    assert wrong_accelerator(torch, gpus) == ""


@pytest.mark.parametrize("torch", ["2.13.0", "2.13.0+cu130"])
def test_one_for_cuda_is_refused_where_there_is_no_gpu(torch: str) -> None:
    assert "is for CUDA" in wrong_accelerator(torch, 0) and "this host has no GPU" in wrong_accelerator(torch, 0)
