"""Inside vLLM's processes on CPU: the routes of a mixture of experts, recorded as vLLM does it on a GPU.

vLLM (0.32) offers `enable_return_routed_experts` where its second model runner works, which wants Triton. What binds
its capturer to each router does not care for the runner: the worker extension binds one of ours, and hands a step's
rows to the scheduler with its tokens; ours hands them out (`recorded.py`).
"""

from typing import Any

import torch
from vllm.model_executor.layers.fused_moe.layer import MoERunner
from vllm.model_executor.layers.fused_moe.routed_experts_capturer import bind_routed_experts_capturer
from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes
from vllm.v1.core.sched.scheduler import Scheduler

from penstock.trajectories.routes import RouteShape
from services.generation.routing.recorded import RecordedRoutes, Step
from services.generation.routing.routes import recorded_shape
from services.generation.weight_backend import WorkerExtension


class RecordingScheduler(Scheduler):
    """Hands out the rows that workers recorded with a request's tokens."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        whole, hashed = resolve_kv_cache_block_sizes(self.kv_cache_config, self.vllm_config)
        blocks = self.kv_cache_config.num_blocks * (whole // hashed)
        self._recorded = RecordedRoutes(recorded_shape(self.vllm_config), hashed, blocks)
        self.aux_output_connector: Any = self._recorded

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """After a step."""
        step = model_runner_output.aux_output_connector_output
        if step is not None:
            self._recorded.step(step, model_runner_output.req_ids, self.requests)
        return super().update_from_output(scheduler_output, model_runner_output)


class _Heard:
    """What the routers of a pass chose. vLLM's own capturer copies each layer's choice into a buffer, with much ado
    about ranks that do not see all tokens, which there are none of on CPU: that was most of what recording costs a
    worker. A layer's choice is a tensor that nobody writes to, so it is kept as it is."""

    def __init__(self, shape: RouteShape) -> None:
        self._shape, self._layers = shape, list[torch.Tensor | None]([None] * shape.layers)

    def capture(self, layer_id: int, topk_ids: torch.Tensor) -> None:
        """Called by the router of a layer."""
        self._layers[layer_id] = topk_ids

    def rows(self, count: int) -> bytes:
        """Those of the pass's first tokens. A layer without experts has zeros."""
        known = next(layer for layer in self._layers if layer is not None)
        layers = [torch.zeros_like(known) if layer is None else layer for layer in self._layers]
        return torch.stack(layers, 1)[:count].numpy().astype(self._shape.dtype).tobytes()


class RecordingExtension(WorkerExtension):
    """A worker that can record; see `record_routes`."""

    model_runner: Any
    vllm_config: Any

    def record_routes(self, on: bool = True) -> None:
        """Called before the first request. Not `on`: nothing is recorded until it is called again, and nothing of
        recording is left in the worker's way (benchmarks compare both in one engine). Never while requests run."""
        runner = self.model_runner
        if not on:
            del runner.sample_tokens
            for module in runner.get_model().modules():
                if isinstance(module, MoERunner):
                    module.router.set_capture_fn(None)
            return
        bind_routed_experts_capturer(runner.get_model(), heard := _Heard(recorded_shape(self.vllm_config)))
        sample = runner.sample_tokens

        def sample_tokens(grammar: Any) -> Any:
            batch, count = runner.input_batch, runner.input_batch.num_reqs
            ends = runner.query_start_loc.np[1 : count + 1].tolist()
            starts = batch.num_computed_tokens_cpu[:count].tolist()
            ran = runner.execute_model_state is not None
            output = sample(grammar)
            if ran and count:
                output.aux_output_connector_output = Step(starts, ends, heard.rows(ends[-1]))
            return output

        runner.sample_tokens = sample_tokens
