"""NeMo RL: keys that stand alone."""

from collections.abc import Mapping

from penstock.migrate.carrying import Row, nowhere, real, to, whole

PACKED = "sequences are always packed, by learner.micro_batch_tokens"
OWN_SERVICES = "generation and learner are services of their own; see generation.replicas and learner.ranks"
CHOSEN = "the learner chooses"

TABLE: Mapping[str, Row] = {
    "policy.model_name": to("model.path"),
    "policy.precision": to("model.dtype"),
    "policy.max_total_sequence_length": to("generation.max_context", whole),
    "policy.max_grad_norm": to("learner.optimizer.clip_gradient", real),
    "policy.train_micro_batch_size": nowhere("samples are packed by tokens: learner.micro_batch_tokens"),
    "policy.tokenizer.chat_template_kwargs": nowhere("the chat template's own settings; see data.thinking"),
    "policy.tokenizer.*": nowhere("the tokenizer is the one in model.path"),
    "policy.generation_batch_size": nowhere(OWN_SERVICES),
    "policy.logprob_batch_size": nowhere("log-probs are computed by learner.micro_batch_tokens too"),
    "policy.logprob_chunk_size": nowhere("the output layer always works in chunks"),
    "policy.sequence_packing.*": nowhere(PACKED, True, "modified_first_fit_decreasing"),
    "policy.dynamic_batching.*": nowhere(PACKED),
    "policy.make_sequence_length_divisible_by": nowhere("padding is the learner's business", 1),
    "policy.offload_optimizer_for_logprob": nowhere("use learner.offload: [optimizer]"),
    "policy.generation.backend": nowhere("engines are vLLM's", "vllm"),
    "policy.generation.temperature": to("sampling.temperature", real),
    "policy.generation.top_p": to("sampling.top_p", real),
    "policy.generation.top_k": to("sampling.top_k", whole),
    "policy.generation.max_new_tokens": to("sampling.max_tokens", whole),
    "policy.generation.stop_strings": to("sampling.stop"),
    "policy.generation.stop_token_ids": nowhere(
        "the model's stop tokens end a turn; texts can be given in sampling.stop"
    ),
    "policy.generation.vllm_cfg.tensor_parallel_size": to("generation.tensor", whole),
    "policy.generation.vllm_cfg.gpu_memory_utilization": to("generation.gpu_memory_fraction", real),
    "policy.generation.vllm_cfg.max_model_len": nowhere("generation.max_context is policy.max_total_sequence_length"),
    "policy.generation.vllm_cfg.enforce_eager": to("generation.compile", lambda eager: not eager),
    "policy.generation.vllm_cfg.precision": nowhere("engines compute in model.dtype"),
    "policy.generation.vllm_cfg.*": nowhere("the engine's own business", 1, 0, True),
    "policy.generation.vllm_kwargs.*": nowhere("the engine's own business"),
    "policy.generation.colocated.*": nowhere(OWN_SERVICES),
    "grpo.max_num_epochs": nowhere("a run has algorithm.steps"),
    "grpo.max_rollout_turns": nowhere("an episode's turns are environment.max_turns, with multi_turn", 1),
    "grpo.val_period": to("evaluation.every", whole),
    "grpo.max_val_samples": to("evaluation.tasks", whole),
    "grpo.val_batch_size": nowhere("evaluation tasks are drawn like any others"),
    "grpo.val_at_start": nowhere("version 0 is always measured", True),
    "grpo.val_at_end": nowhere("the last version is always measured", True),
    "grpo.use_dynamic_sampling": to("algorithm.filters.zero_variance"),
    "grpo.dynamic_sampling_max_gen_batches": nowhere("a filtered group gives its slot back at once"),
    "grpo.batch_multiplier": nowhere("a filtered group gives its slot back at once", 1, 1.0),
    "grpo.overlong_filtering": to("algorithm.filters.truncated"),
    "grpo.seq_logprob_error_threshold": to("algorithm.loss.mismatch_limit", real),
    "grpo.skip_reference_policy_logprobs_calculation": nowhere("no KL term, no reference", True),
    "sft.max_num_steps": to("algorithm.steps", whole),
    "sft.val_period": to("evaluation.every", whole),
    "dpo.max_num_steps": to("algorithm.steps", whole),
    "dpo.val_period": to("evaluation.every", whole),
    "dpo.reference_policy_kl_penalty": to("algorithm.preference.beta", real),
    "dpo.preference_loss_weight": to("algorithm.preference.weight", real),
    "rm.max_num_steps": to("algorithm.steps", whole),
    "rm.val_period": to("evaluation.every", whole),
    **{
        f"{method}.{key}": row
        for method in ("sft", "dpo", "rm")
        for key, row in {
            "max_num_epochs": nowhere("a run has algorithm.steps"),
            "val_batches": nowhere("held-out rows are evaluation.tasks"),
            "val_global_batch_size": nowhere("held-out rows are evaluation.tasks"),
            "val_micro_batch_size": nowhere(PACKED),
            "val_at_start": nowhere("version 0 is always measured", True),
            "val_at_end": nowhere("the last version is always measured", True),
        }.items()
    },
    "loss_fn.force_on_policy_ratio": nowhere("with one optimizer step a batch the ratio is 1 in any case", True),
    "loss_fn.positive_example_nll_weight": nowhere("no likelihood term in policy gradients", 0, 0.0),
    "checkpointing.enabled": nowhere("checkpoints are always written", True),
    "checkpointing.checkpoint_dir": nowhere("a run's directory is runs/<run>"),
    "checkpointing.save_period": to("learner.checkpoints.every", whole),
    "checkpointing.keep_top_k": to("learner.checkpoints.keep", whole),
    "checkpointing.metric_name": nowhere("the newest are kept; see learner.checkpoints.keep_best and metric"),
    "checkpointing.higher_is_better": nowhere("see learner.checkpoints.better", True),
    "checkpointing.checkpoint_must_save_by": nowhere("penstock stop saves before it ends"),
    "checkpointing.*": nowhere(
        "a checkpoint holds weights, optimizer and positions of the run; penstock export writes safetensors",
        "safetensors",
        True,
    ),
    "data.max_input_seq_length": nowhere("generation.max_context bounds a sample; see data.too_long"),
    "data.shuffle": to("data.shuffle"),
    "data.system_prompt_file": nowhere("write the text into data.system"),
    "data.prompt_file": nowhere("write the text into data.prompt, {field} for a row's field"),
    "data.num_workers": nowhere(CHOSEN, 1),
    "data.*": nowhere("rows are read as they are; data.prompt, data.messages and data.completion name their fields"),
    **{
        f"policy.{backend}_cfg.*": nowhere(
            CHOSEN, 0, 1, True, "none", "fp32", "fp64", "float32", "bfloat16", "adam", "alltoall", "constant"
        )
        for backend in ("megatron", "dtensor")
    },
    "env.*": nowhere("environments and rewards are services: environment.name, environment.rewards"),
    "logger.wandb_enabled": nowhere("see telemetry.wandb_project", True),
    "logger.mlflow_enabled": nowhere("see telemetry.mlflow_experiment", True),
    "logger.tensorboard_enabled": to("telemetry.tensorboard"),
    "logger.*": nowhere("metrics are in runs/<run>/metrics.jsonl, samples in the log (penstock samples)", True, 0),
    "cluster.*": nowhere(OWN_SERVICES, 1),
}
