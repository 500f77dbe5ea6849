"""Tokens drafted from the request's own text (ngram), and what stands beside every way of drafting."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from services.generation.drafting.cpu_sampling import for_each_draft
from services.generation.drafting.drafting import missing
from services.generation.drafting.drafting_testing import Drafting

pytest_plugins = ["services.generation.drafting.drafting_testing"]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def speculative() -> Mapping[str, Any]:
    return {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


class TestNgram(Drafting):
    """See Drafting."""


async def test_settings_of_requests_stand_for_each_of_their_drafts() -> None:
    """What vLLM's own leaves as it was in memory."""
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    assert for_each_draft(torch.tensor([0.7, 0.1, 0.0]), ends, 5, 0, 1).tolist() == pytest.approx([0.7] * 2 + [1.0] * 3)
    assert for_each_draft(torch.tensor([3, 1, 64], dtype=torch.int32), ends, 5).tolist() == [3, 3, 64, 64, 64]


async def test_a_method_says_what_package_it_lacks() -> None:
    assert "needs the package arctic-inference, which is not installed" in missing("suffix", lambda name: None)
    assert missing("ngram", lambda name: None) == missing("suffix", lambda name: name) == ""
