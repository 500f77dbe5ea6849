"""What the real engine must give while it drafts tokens ahead, which is what it gives without: tokens, log-probs, ends.

A test file says how it drafts (fixture `speculative`) and has the cases for one engine. Prompts repeat themselves, and
how many drafts were made and taken is asserted: a test that drafts nothing shows nothing.
"""

import asyncio
import collections
import math
import pathlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
import torch

from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.telemetry import metrics
from services.generation.engine import Engine, EngineSettings
from services.generation.engine_host import EngineHost
from services.generation.reference_testing import Drawn, draw, expected, logits_of, tiny, version_file, weights

PROMPT = [3, *range(6, 30), *range(6, 64), *range(6, 64)]
GREEDY = SamplingParams(temperature=0.0, top_p=1.0, max_tokens=40)
DRAWS = 2000
# A log-prob of a drafted token is computed beside others; measured 1e-6 on CPU.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def settings(model: pathlib.Path, speculative: Mapping[str, Any]) -> EngineSettings:
    return EngineSettings(str(model), max_context=224, max_running=64, speculative=speculative)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(settings: EngineSettings) -> AsyncIterator[Engine]:
    Engine.prepare(settings)
    started = await Engine.start(settings, PolicyVersion())
    yield started
    started.stop()


def drafts() -> tuple[float, float]:
    """Tokens proposed and taken so far."""
    names = (metrics.DRAFTS_PROPOSED, metrics.DRAFTS_ACCEPTED)
    proposed, accepted = (metrics.REGISTRY.get_sample_value(f"{name.replace('.', '_')}_total") or 0.0 for name in names)
    return proposed, accepted


def prompts() -> list[list[int]]:
    return [[*PROMPT, i] for i in range(6, 22)]


def likelihoods(model: pathlib.Path, temperature: float, top: int) -> dict[tuple[int, ...], float]:
    """Log-probability of every answer of three tokens after PROMPT."""
    found: dict[tuple[int, ...], float] = {(): 0.0}
    for _ in range(3):
        longer = {}
        for answer, logprob in found.items():
            logits = logits_of(model, weights(model, 1.0), PROMPT, [*answer, 0])[-1] / temperature
            best = logits.topk(top)
            for token, each in zip(best.indices.tolist(), best.values.log_softmax(-1).tolist(), strict=True):
                longer[(*answer, token)] = logprob + each
        found = longer
    return found


class Drafting:
    """The cases. taken: at least so many drafts of the greedy answers are."""

    taken = 10

    async def test_the_most_likely_tokens_and_their_logprobs_are_those_of_transformers(
        self, engine: Engine, model: pathlib.Path
    ) -> None:
        before = drafts()
        answers = await asyncio.gather(*(draw(engine, f"g{i}", each, GREEDY) for i, each in enumerate(prompts())))
        proposed, accepted = (now - then for now, then in zip(drafts(), before, strict=True))
        assert proposed > 50 and self.taken <= accepted < proposed, "drafts were made, and some of them taken"
        for prompt, answer in zip(prompts(), answers, strict=True):
            logits = logits_of(model, weights(model, 1.0), prompt, answer.tokens)
            assert answer.finish == "length" and logits.argmax(-1).tolist() == answer.tokens
            reference = expected(model, weights(model, 1.0), prompt, answer.tokens)
            assert torch.allclose(torch.tensor(answer.logprobs), reference, atol=CLOSE)

    async def test_tokens_are_drawn_from_the_models_distribution(self, engine: Engine, model: pathlib.Path) -> None:
        """Chi-square over all answers of three tokens at temperature .7 and top_k 3, beside greedy requests in the same
        batches: 27 cells, refused where chance would do it once in a million times. Their log-probs are exact."""
        sampling = SamplingParams(temperature=0.7, top_p=1.0, top_k=3, max_tokens=3)
        before = drafts()
        drawn: list[Drawn] = []
        for begin in range(0, DRAWS, 500):
            names = [f"c{begin + i}" for i in range(500)]
            asked = [draw(engine, name, PROMPT, sampling) for name in names]
            beside = [draw(engine, f"{name}-greedy", PROMPT, GREEDY) for name in names[:8]]
            got = await asyncio.gather(*asked, *beside)
            drawn += got[:500]
            assert len({tuple(each.tokens) for each in got[500:]}) == 1
        proposed, accepted = (now - then for now, then in zip(drafts(), before, strict=True))
        assert accepted > self.taken and proposed - accepted > 100, "both taken and refused drafts were judged"
        counts = collections.Counter(tuple(each.tokens) for each in drawn)
        exact = likelihoods(model, 0.7, 3)
        assert set(counts) <= set(exact)
        for each in drawn:
            assert math.isclose(sum(each.logprobs), exact[tuple(each.tokens)], abs_tol=3 * CLOSE)
        wanted = {answer: DRAWS * math.exp(logprob) for answer, logprob in exact.items()}
        assert min(wanted.values()) > 5 and math.isclose(sum(wanted.values()), DRAWS, rel_tol=1e-5)
        distance = sum((counts[answer] - number) ** 2 / number for answer, number in wanted.items())
        assert distance < 81.0, "the 1 - 1e-7 quantile of chi-square with 26 degrees of freedom"

    async def test_drafts_never_exceed_max_tokens(self, engine: Engine) -> None:
        whole = await draw(engine, "whole", PROMPT, GREEDY)
        for most in (1, 2, 3, 5, 8, 13, 21):
            cut = SamplingParams(temperature=0.0, top_p=1.0, max_tokens=most)
            answer = await draw(engine, f"m{most}", PROMPT, cut)
            assert (answer.tokens, answer.finish) == (whole.tokens[:most], "length")
            assert len(answer.logprobs) == most

    async def test_a_stop_token_among_the_drafts_ends_the_answer_there(self, engine: Engine) -> None:
        whole = (await draw(engine, "whole", PROMPT, GREEDY)).tokens
        tokens = list(dict.fromkeys(whole))
        stops = [SamplingParams(temperature=0.0, top_p=1.0, max_tokens=40, stop_token_ids=[token]) for token in tokens]
        answers = await asyncio.gather(*(draw(engine, f"s{i}", PROMPT, stop) for i, stop in enumerate(stops)))
        for token, answer in zip(tokens, answers, strict=True):
            assert (answer.tokens, answer.finish) == (whole[: whole.index(token) + 1], "stop")
            assert len(answer.logprobs) == len(answer.tokens)

    async def test_a_full_context_ends_the_answer(self, engine: Engine, settings: EngineSettings) -> None:
        room = settings.max_context - len(PROMPT)
        fills = SamplingParams(temperature=0.0, top_p=1.0, max_tokens=room)
        answer = await draw(engine, "full", PROMPT, fills)
        assert (len(answer.tokens), answer.finish) == (room, "length")

    async def test_another_replica_goes_on_where_one_was_lost(self, engine: Engine) -> None:
        """As the rollout does: prompt and tokens so far, to an engine that knows nothing of the request."""
        whole = (await draw(engine, "whole", PROMPT, GREEDY)).tokens
        places = (1, 7, 16, 30)
        rests = [SamplingParams(temperature=0.0, top_p=1.0, max_tokens=40 - lost) for lost in places]
        answers = await asyncio.gather(
            *(draw(engine, f"l{n}", [*PROMPT, *whole[:n]], rest) for n, rest in zip(places, rests, strict=True))
        )
        assert [whole[:lost] + answer.tokens for lost, answer in zip(places, answers, strict=True)] == [whole] * 4

    async def test_every_token_names_its_version_over_updates_in_flight(
        self, engine: Engine, settings: EngineSettings, model: pathlib.Path, tmp_path: pathlib.Path
    ) -> None:
        """A request that waits for min_step 2 among them: none of its tokens is older."""
        host = EngineHost(settings, "g0")
        host._engine = engine
        await host.gate.open(0)

        async def patient() -> set[str]:
            async with host.gate.passing(2, None, 60.0):
                return {label async for chunk in host.generate("late", PROMPT, GREEDY) for _, label in chunk.spans}

        scales = {"0.0": 1.0, "1.1": 1.2, "1.2": 0.8}
        warm = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=80)
        running = [asyncio.create_task(draw(engine, f"flight-{i}", PROMPT, warm)) for i in range(12)]
        late = asyncio.create_task(patient())
        for step, label in ((1, "1.1"), (2, "1.2")):
            manifest = version_file(tmp_path / "v.bin", weights(model, scales[label]), step)
            await engine.update(manifest, tmp_path / "v.bin")
            await host.gate.open(step)
        seen = set()
        for answer in await asyncio.gather(*running):
            assert len(answer.tokens) == 80 and answer.spans[0][0] == 0
            for first, end, label in answer.by_version():
                seen.add(label)
                reference = expected(model, weights(model, scales[label]), PROMPT, answer.tokens)[first:end]
                assert torch.allclose(torch.tensor(answer.logprobs[first:end]), reference, atol=1e-3), label
        assert len(seen) > 1 and await late == {"1.2"}
