"""Tokens drafted by a second model that is nearly the policy, so that some of what it says is taken and some not."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.generation.drafting.drafting_testing import Drafting
from services.generation.reference_testing import tiny

pytest_plugins = ["services.generation.drafting.drafting_testing"]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def speculative(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    draft = tiny(tmp_path_factory.mktemp("draft"))
    noise, file = torch.Generator().manual_seed(1), draft / "model.safetensors"
    near = {
        name: tensor * (1 + 0.3 * torch.randn(tensor.shape, generator=noise))
        for name, tensor in load_file(file).items()
    }
    save_file(near, file, metadata={"format": "pt"})
    return {"method": "draft_model", "model": str(draft), "num_speculative_tokens": 3}


class TestDraftModel(Drafting):
    """See Drafting."""
