"""The real vLLM engine against transformers: what is logged was drawn, by the version it says, also over updates.

One engine serves the whole file (starting one takes most of the time), so the tests share an event loop.
"""

import asyncio
import os
import pathlib
import shutil
import signal
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio
import torch

from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.fetching.hands import _mapped
from services.generation.engine import MOST_TOP, Engine, EngineDied, EngineSettings
from services.generation.reference_testing import distribution, draw, expected, tiny, version_file, weights

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPT = [3, 20, 31, 42, 2, 4]
SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny(tmp_path_factory.mktemp("model"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(model: pathlib.Path) -> AsyncIterator[Engine]:
    settings = EngineSettings(str(model), max_context=128, max_running=16)
    Engine.prepare(settings)
    started = await Engine.start(settings, PolicyVersion())
    yield started
    started.stop()


async def test_logprobs_are_those_of_transformers(engine: Engine, model: pathlib.Path) -> None:
    drawn = await draw(engine, "a", PROMPT, SAMPLING)
    assert drawn.finish == "length" and len(drawn.tokens) == 60
    assert {label for _, label in drawn.spans} == {"0.0"}
    reference = expected(model, weights(model, 1.0), PROMPT, drawn.tokens)
    assert torch.allclose(torch.tensor(drawn.logprobs), reference, atol=1e-4)


async def test_chunks_grow_unless_the_caller_reads_along(engine: Engine) -> None:
    """vLLM tells the first token alone and then sixteen at once."""
    assert (await draw(engine, "grows", PROMPT, SAMPLING)).chunks == [17, 32, 11]
    steady = [len(chunk.tokens) async for chunk in engine.generate("steady", PROMPT, SAMPLING, steady=True)]
    assert steady == [17, 16, 16, 11]


async def test_given_tokens_are_scored_as_transformers_does(engine: Engine, model: pathlib.Path) -> None:
    """What a teacher says of a student's answer, also of one that it would never have drawn."""
    for name, tokens in (("s1", [7, 7, 7, 9, 63, 5]), ("s2", list(range(6, 60)))):
        scored = await engine.score(name, PROMPT + tokens, len(PROMPT))
        assert torch.allclose(
            torch.tensor(scored.logprobs), expected(model, weights(model, 1.0), PROMPT, tokens), atol=1e-4
        )
        assert all(not words for words in scored.top_tokens)


async def test_the_likeliest_tokens_are_those_of_transformers(engine: Engine, model: pathlib.Path) -> None:
    """Also where the given token is one of them, and for as many as may be asked for."""
    tokens = [7, 7, 7, 9, 63, 5, *range(20, 40)]
    logits = distribution(model, weights(model, 1.0), PROMPT, tokens)
    for top in (1, 4, MOST_TOP):
        scored = await engine.score(f"top{top}", PROMPT + tokens, len(PROMPT), top)
        best = logits.topk(top)
        assert {len(words) for words in scored.top_tokens} == {top}
        assert torch.allclose(torch.tensor(scored.top_logprobs), best.values, atol=1e-4)
        named = torch.tensor(scored.top_tokens)
        assert torch.allclose(logits.gather(-1, named), best.values, atol=1e-4), "their own values, in falling order"


async def test_a_stop_token_ends_the_completion_and_belongs_to_it(engine: Engine) -> None:
    sampling = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=60, stop_token_ids=list(range(6, 64)))
    chunks = [chunk async for chunk in engine.generate("stop", PROMPT, sampling)]
    assert chunks[-1].finish_reason == "stop"
    assert sum(len(c.tokens) for c in chunks) >= 1
    assert chunks[-1].tokens[-1] >= 6


async def test_every_token_names_its_version_over_updates_in_flight(
    engine: Engine, model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    scales = {"0.0": 1.0, "1.1": 1.2, "1.2": 0.8}
    running = [asyncio.create_task(draw(engine, f"flight-{i}", PROMPT, SAMPLING)) for i in range(12)]
    for step, label in ((1, "1.1"), (2, "1.2")):  # two: a second reload has gone wrong where the first was right
        manifest = version_file(tmp_path / "v.bin", weights(model, scales[label]), step)
        pause = await engine.update(manifest, tmp_path / "v.bin")
        assert 0 < pause < 30
        assert engine.version == manifest.version
    late = await draw(engine, "late", PROMPT, SAMPLING)
    for drawn in [*await asyncio.gather(*running), late]:
        assert drawn.spans[0][0] == 0
        for first, end, label in drawn.by_version():
            reference = expected(model, weights(model, scales[label]), PROMPT, drawn.tokens)[first:end]
            # kv_on_update=recompute: a token's whole context is that of its own version.
            assert torch.allclose(torch.tensor(drawn.logprobs[first:end]), reference, atol=1e-3), label
    assert {label for _, label in late.spans} == {"1.2"}


async def test_a_file_that_is_held_open_is_loaded_though_its_name_is_gone(
    engine: Engine, model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """What is mapped of the store on this host may be retired before it is loaded."""
    manifest = version_file(tmp_path / "v.bin", weights(model, 1.5), 4)
    held = _mapped(manifest, str(tmp_path / "v.bin"))
    assert held is not None
    (tmp_path / "v.bin").unlink()
    await engine.update(manifest, held.file)
    held.release()
    drawn = await draw(engine, "held", PROMPT, SAMPLING)
    assert {label for _, label in drawn.spans} == {"1.4"}
    reference = expected(model, weights(model, 1.5), PROMPT, drawn.tokens)
    assert torch.allclose(torch.tensor(drawn.logprobs), reference, atol=1e-4)


async def test_adapters_are_merged_into_the_model_that_the_engine_was_started_with(
    engine: Engine, model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Twice, with other adapters and fewer modules: a version does not depend on the one before it."""
    stored = weights(model, 1.0)
    generator = torch.Generator().manual_seed(0)
    for step, modules in ((3, ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")), (4, ("mlp.gate_proj",))):
        adapters: dict[str, torch.Tensor] = {}
        changed = dict(stored)
        for name in (f"model.layers.{layer}.{module}" for layer in (0, 1) for module in modules):
            outputs, inputs = stored[f"{name}.weight"].shape
            a, b = torch.randn(4, inputs, generator=generator), torch.randn(outputs, 4, generator=generator)
            adapters |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
            changed[f"{name}.weight"] = stored[f"{name}.weight"] + 0.05 * b @ a
        manifest = version_file(tmp_path / "v.bin", adapters, step)
        manifest.adapters.scale = 0.05
        await engine.update(manifest, tmp_path / "v.bin")
        drawn = await draw(engine, f"adapted-{step}", PROMPT, SAMPLING)
        assert {label for _, label in drawn.spans} == {f"1.{step}"}
        logprobs = torch.tensor(drawn.logprobs)
        assert torch.allclose(logprobs, expected(model, changed, PROMPT, drawn.tokens), atol=1e-4)
        assert not torch.allclose(logprobs, expected(model, stored, PROMPT, drawn.tokens), atol=1e-2)


async def test_an_adapter_of_no_module_is_refused(engine: Engine, model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    manifest = version_file(tmp_path / "v.bin", {"model.layers.9.mlp.up_proj.lora_A.weight": torch.ones(1, 64)}, 5)
    manifest.adapters.scale = 1.0
    with pytest.raises(Exception, match="1 adapters fit no weight"):
        await engine.update(manifest, tmp_path / "v.bin")


async def test_an_incomplete_version_is_refused(engine: Engine, model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """vLLM itself raises nothing for a missing tensor; a manifest that the model cannot satisfy must not be applied."""
    manifest = version_file(tmp_path / "v.bin", weights(model, 1.0), 3)
    manifest.tensors[0].name = "model.no_such_tensor.weight"
    with pytest.raises(Exception, match="no_such_tensor|no module|KeyError|not found"):
        await engine.update(manifest, tmp_path / "v.bin")
    part = {name: t for name, t in weights(model, 1.0).items() if "layers.1.mlp" not in name}
    with pytest.raises(
        Exception, match="the version has nothing for .* of the model's tensors, first 'model.layers.1.mlp"
    ):
        await engine.update(version_file(tmp_path / "part.bin", part, 4), tmp_path / "part.bin")


async def test_an_engine_without_weights_is_that_of_its_first_version(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    started = await Engine.start(EngineSettings(str(bare), max_context=128, weights=False), PolicyVersion())
    try:
        await started.update(version_file(tmp_path / "v.bin", weights(model, 1.0), 3), tmp_path / "v.bin")
        drawn = await draw(started, "first", PROMPT, SAMPLING)
        reference = expected(model, weights(model, 1.0), PROMPT, drawn.tokens)
        assert torch.allclose(torch.tensor(drawn.logprobs), reference, atol=1e-4)
    finally:
        started.stop()


async def test_the_death_of_the_engine_process_is_an_error_at_once(engine: Engine) -> None:
    children = psutil.Process().children(recursive=True)
    assert children, "the engine runs in a process of its own"
    running = asyncio.create_task(draw(engine, "dying", PROMPT, SAMPLING))
    await asyncio.sleep(0)
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        with pytest.raises(EngineDied):
            await running
            while True:  # a very fast machine may have finished; the next request must fail then
                await draw(engine, "after", PROMPT, SAMPLING)
    assert not engine.alive
