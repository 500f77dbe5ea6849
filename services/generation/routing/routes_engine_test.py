"""The routes of a real engine are those of transformers, row by row, however they are asked for."""

import asyncio
import pathlib
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import pytest_asyncio
import torch

from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.trajectories.routes import RouteShape
from penstock.trajectory.v1.trajectory_pb2 import Routes
from services.generation.engine import Chunk, Engine, EngineSettings
from services.generation.reference_testing import draw, version_file, weights
from services.generation.routing.routes_testing import PROMPT, SAMPLING, joined, mixture, routes_of, several

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return mixture(tmp_path_factory.mktemp("models") / "mixture")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(model: pathlib.Path) -> AsyncIterator[Engine]:
    settings = EngineSettings(str(model), max_context=256, max_running=16, routes=True)
    Engine.prepare(settings)
    started = await Engine.start(settings, PolicyVersion())
    yield started
    started.stop()


async def test_rows_are_those_of_transformers(engine: Engine, model: pathlib.Path) -> None:
    assert engine.routes == RouteShape(3, 2, 8)
    await several(engine, model, "s")


async def test_rows_come_chunk_by_chunk_and_those_of_the_prompt_with_the_first_token(engine: Engine) -> None:
    told = [(len(c.tokens), c.routes and (c.routes.first, c.routes.count)) async for c in chunks(engine, "chunks", 0)]
    assert told[0] == (1, (0, len(PROMPT))) and len(told) == 3
    assert sum(rows[1] for _, rows in told if rows) == len(PROMPT) + 49, "the last token was no input"


async def chunks(engine: Engine, name: str, routes_from: int | None) -> AsyncIterator[Chunk]:
    async for chunk in engine.generate(name, PROMPT, SAMPLING, routes_from=routes_from):
        yield chunk


async def test_rows_of_a_cached_prompt_are_there_from_any_row_on(engine: Engine, model: pathlib.Path) -> None:
    for first in (0, 1, 33, len(PROMPT) - 1, len(PROMPT)):
        drawn = await draw(engine, f"from{first}", PROMPT, SAMPLING, first)
        expected = routes_of(model, None, PROMPT + drawn.tokens)[first:]
        assert torch.equal(torch.from_numpy(joined(drawn.routes, first)).long(), expected)
    assert not (await draw(engine, "none", PROMPT, SAMPLING)).routes


async def test_a_turn_goes_on_from_the_first_row_that_is_lacking(engine: Engine, model: pathlib.Path) -> None:
    """As after a stop text, or on another replica: what was drawn is a prompt then."""
    whole: list[Routes] = []
    tokens = list(PROMPT)
    async with aclosing(engine.generate("cut", PROMPT, SAMPLING, routes_from=0)) as stream:  # type: ignore[type-var]
        async for chunk in stream:
            tokens += chunk.tokens
            whole += [chunk.routes] if chunk.routes is not None else []
            if len(tokens) > len(PROMPT) + 10:
                break
    lacking = sum(each.count for each in whole)
    assert lacking < len(tokens)
    on = await draw(engine, "on", tokens, SAMPLING, lacking)
    assert torch.equal(
        torch.from_numpy(joined([*whole, *on.routes])).long(), routes_of(model, None, tokens + on.tokens)
    )


async def test_a_request_that_is_given_up_leaves_the_others_their_rows(engine: Engine, model: pathlib.Path) -> None:
    gone = asyncio.create_task(draw(engine, "gone", PROMPT, SAMPLING, 0))
    beside = asyncio.create_task(several(engine, model, "beside"))
    async for _ in engine.generate("clock", PROMPT, SamplingParams(temperature=1.0, top_p=1.0, max_tokens=8)):
        gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert gone.cancelled()
    await beside


async def test_a_row_is_of_the_weights_that_drew_from_it(
    engine: Engine, model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """An update in flight appends rows and rewrites none; twice, as the second reload of experts has gone wrong."""
    held = None
    for step, scale in ((1, 1.3), (2, 0.7)):
        tensors = weights(model, scale)
        manifest = version_file(tmp_path / "v.bin", tensors, step)
        long = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=180)
        stream = engine.generate(f"flight{step}", PROMPT, long, routes_from=0)
        first = await anext(stream)
        _, rest = await asyncio.gather(engine.update(manifest, tmp_path / "v.bin"), collected(stream))
        drawn = [first, *rest]
        tokens = PROMPT + [token for chunk in drawn for token in chunk.tokens]
        rows = torch.from_numpy(joined([c.routes for c in drawn if c.routes is not None])).long()
        labels = [label for c in drawn for _, label in c.spans]
        assert f"1.{step}" in labels and len(set(labels)) == 2, "both versions drew"
        old, new = (
            (rows == each).flatten(1).all(1)
            for each in (routes_of(model, held, tokens), routes_of(model, tensors, tokens))
        )
        begins = int((~old).nonzero()[0])
        assert begins >= len(PROMPT) and new[begins:].all(), "after the first that is not of the old, all are new"
        held = tensors
        late = await draw(engine, f"late{step}", PROMPT, SAMPLING, 0)
        assert torch.equal(torch.from_numpy(joined(late.routes)).long(), routes_of(model, held, PROMPT + late.tokens))


async def collected(stream: AsyncIterator[Chunk]) -> list[Chunk]:
    return [chunk async for chunk in stream]
