"""Inside vLLM's processes on CPU: the routes of a mixture of experts, recorded as vLLM does it on a GPU.

vLLM (0.32) offers `enable_return_routed_experts` where its second model runner works, which wants Triton. Its capturer,
which hears each router, does not care for the runner: the worker extension binds it, and hands its rows to the
scheduler with a step's tokens; ours hands them out (`recorded.py`).
"""

from typing import Any

from vllm.model_executor.layers.fused_moe.layer import MoERunner
from vllm.model_executor.layers.fused_moe.routed_experts_capturer import (
    RoutedExpertsCapturer,
    bind_routed_experts_capturer,
)
from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes
from vllm.v1.core.sched.scheduler import Scheduler

from services.generation.recorded import RecordedRoutes, Step
from services.generation.routes import recorded_shape
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
            self._recorded.step(step, self.requests)
        return super().update_from_output(scheduler_output, model_runner_output)


class RecordingExtension(WorkerExtension):
    """A worker that can record; see `record_routes`."""

    model_runner: Any
    vllm_config: Any

    def record_routes(self, on: bool = True) -> None:
        """Called before the first request. Not `on`: nothing is recorded until it is called again, and nothing of
        recording is left in the worker's way (benchmarks compare both in one engine). Never while requests run."""
        runner, shape = self.model_runner, recorded_shape(self.vllm_config)
        if not on:
            del runner.sample_tokens
            for module in runner.get_model().modules():
                if isinstance(module, MoERunner):
                    module.router.set_capture_fn(None)
            return
        most = self.vllm_config.scheduler_config.max_num_batched_tokens
        capturer = RoutedExpertsCapturer(max_num_batched_tokens=most, vllm_config=self.vllm_config)
        bind_routed_experts_capturer(runner.get_model(), capturer)
        sample = runner.sample_tokens

        def sample_tokens(grammar: Any) -> Any:
            batch, count = runner.input_batch, runner.input_batch.num_reqs
            names, ends = list(batch.req_ids), runner.query_start_loc.np[1 : count + 1].tolist()
            starts = batch.num_computed_tokens_cpu[:count].tolist()
            ran = runner.execute_model_state is not None
            output = sample(grammar)
            if ran and count:
                rows = capturer.device_buffer[: ends[-1]].numpy().astype(shape.dtype).tobytes()
                output.aux_output_connector_output = Step(names, starts, ends, rows)
            return output

        runner.sample_tokens = sample_tokens
