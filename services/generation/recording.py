"""Inside vLLM's processes on CPU: the routes of a mixture of experts, recorded as vLLM does it on a GPU.

vLLM (0.32) offers `enable_return_routed_experts` where its second model runner works, which wants Triton. What is
behind the flag does not care for the runner: it asks for three calls around a step, which the worker extension makes,
and for a scheduler that asks workers for routes.
"""

import types
from typing import Any

import numpy as np
from vllm.distributed.aux_output_connector.connector import AuxOutputSchedulerConnector
from vllm.distributed.aux_output_connector.worker import get_aux_output_connector
from vllm.v1.core.sched.scheduler import Scheduler

from services.generation.weight_backend import WorkerExtension


class RecordingScheduler(Scheduler):
    """Asks workers for routes, and hands them out with a request's tokens."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.aux_output_connector = AuxOutputSchedulerConnector()


class RecordingExtension(WorkerExtension):
    """A worker that can record; see `record_routes`."""

    model_runner: Any
    vllm_config: Any

    def record_routes(self) -> None:
        """Called once, before the first request."""
        runner = self.model_runner
        routes = get_aux_output_connector(runner.get_model(), self.vllm_config, runner.kv_cache_config)
        execute, sample = runner.execute_model, runner.sample_tokens
        drafted: dict[str, int] = {}

        def execute_model(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
            routes.begin_step(scheduled.aux_output_connector_metadata)
            drafted.clear()
            drafted.update((name, len(tokens)) for name, tokens in scheduled.scheduled_spec_decode_tokens.items())
            return execute(scheduled, *args, **kwargs)

        def sample_tokens(grammar: Any) -> Any:
            batch, count = runner.input_batch, runner.input_batch.num_reqs
            step = types.SimpleNamespace(
                req_ids=list(batch.req_ids),
                query_start_loc_np=runner.query_start_loc.np[: count + 1].copy(),
                num_computed_tokens_np=batch.num_computed_tokens_cpu[:count].copy(),
            )
            ran = runner.execute_model_state is not None
            output = sample(grammar)
            pending = routes.prepare_output(step) if ran else None
            if pending is not None:
                sampled = np.array([len(tokens) for tokens in output.sampled_token_ids])
                asked = np.array([drafted.get(name, 0) for name in step.req_ids])
                pending.enqueue_cpu_copy(sampled, np.where(asked > 0, asked + 1 - sampled, 0))
                output.aux_output_connector_output = pending.process_output()
            return output

        runner.execute_model, runner.sample_tokens = execute_model, sample_tokens
