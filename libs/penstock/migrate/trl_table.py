"""TRL: keys of every trainer that stand alone."""

from collections.abc import Mapping

from penstock.migrate.carrying import Row, nowhere, to, whole

LEARNER = "the learner's own business: see learner.ranks, learner.parallel and learner.micro_batch_tokens"
RECORDS = "metrics are in runs/<run>/metrics.jsonl, samples in the log (penstock samples)"

TABLE: Mapping[str, Row] = {
    "run_name": nowhere("write it into `run`"),
    "output_dir": nowhere("a run's directory is runs/<run>"),
    "max_length": to("generation.max_context", whole),
    "max_prompt_length": nowhere("generation.max_context bounds prompt and answer together; see data.too_long"),
    "per_device_eval_batch_size": nowhere("held-out rows are evaluation.tasks", 8),
    "eval_on_start": nowhere("version 0 is always measured", True),
    "precompute_ref_log_probs": nowhere("the reference's sums are kept by the digest of the sequence", True),
    "precompute_ref_batch_size": nowhere("the reference's sums are kept by the digest of the sequence"),
    "disable_dropout": nowhere("nothing has dropout here", True),
    "packing": nowhere("always packed, and attention never looks across sequences", True),
    "packing_strategy": nowhere("always packed, and attention never looks across sequences", "bfd"),
    "padding_free": nowhere("always without padding", True),
    "pad_to_multiple_of": nowhere("always without padding"),
    "use_liger_kernel": nowhere("the output layer always works in chunks", True),
    "use_liger_loss": nowhere("the output layer always works in chunks", True),
    "cast_lm_head_to_fp32": nowhere("logits and log-probs are always fp32", True),
    "ddp_find_unused_parameters": nowhere(LEARNER),
    "gradient_checkpointing_kwargs.*": nowhere(LEARNER, True),
    "deepspeed": nowhere(LEARNER),
    "deepspeed.*": nowhere(LEARNER),
    "fsdp": nowhere(LEARNER, "", []),
    "fsdp_config.*": nowhere(LEARNER),
    "accelerator_config.*": nowhere(LEARNER, True),
    "dataloader_num_workers": nowhere(LEARNER, 0),
    "dataloader_drop_last": nowhere("batches are always whole", True),
    "dataset_num_proc": nowhere(LEARNER),
    "remove_unused_columns": nowhere("the whole row reaches the reward", True),
    "model_init_kwargs.*": nowhere("the model is read as it lies in model.path; see model.dtype"),
    "attn_implementation": nowhere(LEARNER),
    "trust_remote_code": nowhere("code that comes with a model is not run"),
    "chat_template_path": nowhere("the chat template is the model directory's"),
    "chat_template_kwargs.*": nowhere("see data.thinking; other settings of a template have no key"),
    "logging_steps": nowhere("every step is recorded", 1, 10, 500),
    "logging_strategy": nowhere("every step is recorded", "steps"),
    "logging_first_step": nowhere("every step is recorded", True),
    "logging_dir": nowhere(RECORDS),
    "log_level": nowhere(RECORDS, "passive"),
    "log_completions": nowhere(RECORDS, True),
    "num_completions_to_print": nowhere(RECORDS),
    "push_to_hub": nowhere("penstock export writes a directory that can be pushed"),
    "hub_model_id": nowhere("penstock export writes a directory that can be pushed"),
    "load_best_model_at_end": nowhere("see learner.checkpoints.keep_best"),
    "metric_for_best_model": nowhere("see learner.checkpoints.metric"),
    "greater_is_better": nowhere("see learner.checkpoints.better", True),
    "do_train": nowhere("penstock train", True),
    "do_eval": nowhere("penstock eval", True),
    "tf32": nowhere(LEARNER),
    "bf16_full_eval": nowhere(LEARNER),
    "neftune_noise_alpha": nowhere("no noise on embeddings here"),
    "label_names": nowhere("labels are made of the rows"),
    "average_tokens_across_devices": nowhere("always over the whole batch", True),
    "router_aux_loss_coef": nowhere(
        "see algorithm.router_coefficient, of backend megatron; the same pull is this number times the experts "
        "of a token",
        0.0,
        0.001,
    ),
}
