"""One vLLM engine: token ids in, token ids with log-probabilities and versions out, weights swapped in flight.

vLLM runs in a child process of its own; this is the asynchronous handle to it. Log-probabilities are those of the
processed distribution (after temperature, top-p, top-k), which is what the learner's correction needs.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from penstock.common.v1.common_pb2 import PolicyVersion, SamplingParams
from penstock.system.parent_death import mortal_spawns
from penstock.trajectories.routes import RouteShape
from penstock.trajectory.v1.trajectory_pb2 import Routes
from penstock.weights.v1.weights_pb2 import Manifest
from services.generation import forks
from services.generation.drafting.drafting import Acceptance
from services.generation.routing.routes import RequestRoutes, recorded_shape
from services.generation.together import sizes

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """How the engine is built. `memory_gib` is its KV cache on CPU; a GPU uses `gpu_memory_fraction`. speculative:
    vLLM's `speculative_config`, None to draft nothing. weights: whether the model directory has any; an engine without
    has random ones until its first update, and none must ask it for a token before. routes: record where a mixture's
    routers send tokens."""

    model: str
    dtype: str = "float32"
    max_running: int = 256
    max_context: int = 2048
    memory_gib: float = 1.0
    gpu_memory_fraction: float = 0.9
    tensor_parallel: int = 1
    chunk_tokens: int = 16
    compile: bool = False
    threads: int = 1
    keep_kv_on_update: bool = False
    speculative: Mapping[str, Any] | None = None
    weights: bool = True
    routes: bool = False


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Drawn tokens [n] with log-probabilities [n]; spans are (first, version label), `first` from the chunk's start.
    routes: rows of the request's tokens that were not told before, where they are asked for and recorded."""

    tokens: Sequence[int]
    logprobs: Sequence[float]
    spans: Sequence[tuple[int, str]]
    finish_reason: str | None
    cached_prompt_tokens: int
    routes: Routes | None = None


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a model says of given tokens [n]: log-probabilities [n], and with `top` its likeliest tokens of every
    position [n][top], the likeliest first, with theirs."""

    logprobs: list[float]
    top_tokens: list[list[int]]
    top_logprobs: list[list[float]]


MOST_TOP = 64


class EngineDied(RuntimeError):
    """The engine's process is gone; a new engine is needed."""


class Engine:
    """A running engine. Made by `start`; every method raises EngineDied once its process is gone."""

    def __init__(self, llm: Any, settings: EngineSettings, version: PolicyVersion) -> None:
        self._llm = llm
        self._settings = settings
        self.version = version
        # vLLM's CPU build cannot restore a seeded sampler after a request is preempted, which every update does.
        from vllm.platforms import current_platform

        self._seeds = not current_platform.is_cpu()
        self.routes: RouteShape | None = recorded_shape(llm.vllm_config) if settings.routes else None

    @classmethod
    def prepare(cls, settings: EngineSettings) -> None:
        """Imports vLLM, once for this process and those of its engines: called before this one has threads. Without
        it engines start all the same, and later."""
        _environment(settings)
        mortal_spawns()  # should the forks' server be lost
        forks.begin(settings.threads)

    @classmethod
    async def start(cls, settings: EngineSettings, version: PolicyVersion) -> "Engine":
        """Starts the engine's process and loads the model directory, which is labelled `version`."""
        _environment(settings)
        mortal_spawns()  # vLLM's engine process does not notice that this one was killed
        from vllm import AsyncEngineArgs
        from vllm.config import WeightTransferConfig
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        by_hand = settings.routes and current_platform.is_cpu()
        llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=settings.model,
                dtype=settings.dtype,
                enforce_eager=not settings.compile,
                max_model_len=settings.max_context,
                max_num_seqs=settings.max_running,
                tensor_parallel_size=settings.tensor_parallel,
                distributed_executor_backend="uni" if settings.tensor_parallel == 1 else "mp",
                gpu_memory_utilization=settings.gpu_memory_fraction,
                skip_tokenizer_init=True,
                generation_config="vllm",
                logprobs_mode="processed_logprobs",
                max_logprobs=MOST_TOP,
                stream_interval=settings.chunk_tokens,
                enable_prefix_caching=True,
                disable_log_stats=True,
                load_format="auto" if settings.weights else "dummy",
                worker_extension_cls="services.generation."
                + ("routing.recording.RecordingExtension" if by_hand else "weight_backend.WorkerExtension"),
                scheduler_cls="services.generation.routing.recording.RecordingScheduler" if by_hand else None,
                enable_return_routed_experts=settings.routes and not by_hand,
                weight_transfer_config=WeightTransferConfig(backend="penstock"),
                speculative_config=dict(settings.speculative) if settings.speculative else None,
            ),
            stat_loggers=[Acceptance] if settings.speculative else None,
        )
        await llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info={}))
        if by_hand:
            await llm.collective_rpc("record_routes", timeout=60)
        engine = cls(llm, settings, version)
        await llm.update_weight_version(label(version))
        return engine

    async def generate(
        self,
        request_id: str,
        prompt: Sequence[int],
        sampling: SamplingParams,
        steady: bool = False,
        routes_from: int | None = None,
    ) -> AsyncIterator[Chunk]:
        """Draws one completion, chunk by chunk; the last chunk has a finish reason ("stop" or "length"). Chunks grow,
        unless they are `steady`. routes_from: the first row of routes that is wanted; those of the prompt are told with
        the first token, which others may wait for."""
        from vllm import SamplingParams as VllmSampling
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        params = VllmSampling(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            stop_token_ids=list(sampling.stop_token_ids),
            seed=sampling.seed if sampling.HasField("seed") and self._seeds else None,
            ignore_eos=True,
            detokenize=False,
            logprobs=0,
            flat_logprobs=True,
            output_kind=RequestOutputKind.DELTA,
            routed_experts_prompt_start=len(prompt) if routes_from is None else routes_from,
        )
        rows = None if routes_from is None or self.routes is None else RequestRoutes(self.routes, routes_from)
        # The salt keeps a new request from reusing the KV that older weights left in the prefix cache.
        inputs = {"prompt_token_ids": list(prompt), "cache_salt": label(self.version)}
        done, least = 0, sizes(self._settings.chunk_tokens, steady)
        tokens, logprobs, size = list[int](), list[float](), next(least)
        of_prompt = rows is not None and (routes_from or 0) < len(prompt)
        try:
            async for output in self._llm.generate(inputs, params, request_id):
                completion = output.outputs[0]
                tokens += completion.token_ids
                logprobs += completion.logprobs.logprobs
                if len(tokens) < size and completion.finish_reason is None and not of_prompt:
                    continue
                state, ends, of_prompt = self._state(request_id), done + len(tokens), False
                spans = _spans(state, completion, done, ends)
                routes = None if rows is None else _routes(rows, state, completion, len(prompt) + ends - 1)
                yield Chunk(tokens, logprobs, spans, completion.finish_reason, output.num_cached_tokens or 0, routes)
                done = ends
                tokens, logprobs, size = [], [], next(least)
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error

    async def score(self, request_id: str, tokens: Sequence[int], first: int, top: int = 0) -> Judgement:
        """What the model at temperature 1 says of tokens[first:]; top: 0 … MOST_TOP. Raises EngineDied."""
        from vllm import SamplingParams as VllmSampling
        from vllm.v1.engine.exceptions import EngineDeadError

        params = VllmSampling(max_tokens=1, temperature=0.0, prompt_logprobs=top, detokenize=False, flat_logprobs=False)
        inputs = {"prompt_token_ids": list(tokens), "cache_salt": label(self.version)}
        try:
            async for output in self._llm.generate(inputs, params, request_id):
                last = output
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        given = [(tokens[i], last.prompt_logprobs[i]) for i in range(first, len(tokens))]
        # A position has the given token beside the likeliest ones; where it is one of them it stands once.
        best = [sorted(words.items(), key=lambda word: word[1].rank)[:top] for _, words in given]
        return Judgement(
            [words[token].logprob for token, words in given],
            [[token for token, _ in words] for words in best],
            [[word.logprob for _, word in words] for words in best],
        )

    async def update(self, manifest: Manifest, path: pathlib.Path) -> float:
        """Swaps the weights for those of a version whose checked bytes are in `path`; requests in flight go on.

        Returns the seconds during which no token was drawn. After an error the weights are undefined: the caller must
        apply a complete version or start a new engine before anything is generated again.
        """
        import time

        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest
        from vllm.v1.engine.exceptions import EngineDeadError

        tensors = [(t.name, t.dtype, list(t.shape), t.offset, t.size) for t in manifest.tensors]
        scale = manifest.adapters.scale if manifest.HasField("adapters") else None
        started = time.monotonic()
        try:
            await self._llm.pause_generation(mode="keep", clear_cache=not self._settings.keep_kv_on_update)
            await self._llm.start_weight_update()
            await self._llm.update_weights(
                WeightTransferUpdateRequest(update_info={"path": str(path), "tensors": tensors, "scale": scale})
            )
            await self._llm.finish_weight_update(label(manifest.version))
            self.version = manifest.version
            await self._llm.resume_generation()
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        return time.monotonic() - started

    @property
    def alive(self) -> bool:
        """Whether the engine's process runs."""
        return not self._llm.errored

    def running(self) -> int:
        """Requests that have not finished."""
        return int(self._llm.output_processor.get_num_unfinished_requests())

    def stop(self) -> None:
        """Ends the engine's process."""
        self._llm.shutdown()

    def _state(self, request_id: str) -> Any:
        """Where vLLM keeps what it gives with a request's last output alone; None once that was given."""
        states = self._llm.output_processor.request_states
        return next((state for name, state in states.items() if name.startswith(request_id)), None)


def _spans(state: Any, completion: Any, start: int, end: int) -> list[tuple[int, str]]:
    """Version spans of output tokens [start, end)."""
    if completion.weight_versions is not None:
        starts = [(s.version, s.start) for s in completion.weight_versions]
    else:
        starts = [] if state is None else state.weight_version_starts
    inside = [(max(first, start) - start, name) for name, first in starts if first < end]
    return [span for i, span in enumerate(inside) if i + 1 == len(inside) or inside[i + 1][0] > 0]


def _routes(rows: RequestRoutes, state: Any, completion: Any, inputs: int) -> Routes | None:
    """Rows of the first so many inputs that were not told before."""
    if completion.routed_experts is not None:
        rows.add([completion.routed_experts])
    elif state is not None:
        rows.add(state.routed_experts_chunks)
        state.routed_experts_chunks = []
    return rows.take(inputs)


def label(version: PolicyVersion) -> str:
    """A version as the label vLLM keeps per token: "epoch.step"."""
    return f"{version.epoch}.{version.step}"


def from_label(text: str) -> PolicyVersion:
    """The version of a label."""
    epoch, _, step = text.partition(".")
    return PolicyVersion(epoch=int(epoch), step=int(step))


def _environment(settings: EngineSettings) -> None:
    """What vLLM reads from its environment: nothing is sent out, nothing is fetched from a hub, threads are bounded."""
    os.environ.update(
        HF_HUB_OFFLINE=os.environ.get("HF_HUB_OFFLINE", "1"),
        VLLM_NO_USAGE_STATS="1",
        VLLM_CPU_KVCACHE_SPACE=str(max(1, round(settings.memory_gib))),
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        OMP_NUM_THREADS=str(settings.threads),
        VLLM_LOGGING_LEVEL=os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        VLLM_WORKER_MULTIPROC_METHOD="spawn",
        # Arrays of a few hundred bytes (routes) are cheaper inside a message than as frames beside it.
        VLLM_MSGPACK_ZERO_COPY_THRESHOLD="65536",
        # Workers import weight_backend from the same roots as this process.
        PYTHONPATH=os.environ.get("PYTHONPATH", ""),
    )
    if not settings.compile:
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
