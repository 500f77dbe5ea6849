"""The routes of a real engine that drafts tokens ahead, and of one whose model is cut over two ranks."""

import pathlib
from typing import Any

import pytest

from penstock.common.v1.common_pb2 import PolicyVersion
from services.generation.engine import Engine, EngineSettings
from services.generation.routing.routes_testing import mixture, several

NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 1}


@pytest.mark.parametrize("kind", [{"speculative": NGRAM}, {"tensor_parallel": 2}], ids=["drafts", "ranks"])
async def test_rows_are_those_of_transformers(kind: dict[str, Any], tmp_path: pathlib.Path) -> None:
    model = mixture(tmp_path / "mixture")
    started = await Engine.start(
        EngineSettings(str(model), max_context=256, max_running=16, routes=True, **kind), PolicyVersion()
    )
    try:
        await several(started, model, "k")
    finally:
        started.stop()
