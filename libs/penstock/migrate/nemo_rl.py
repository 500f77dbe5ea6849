"""NeMo RL: the method by the section that is there, and the keys that hang together."""

from typing import Any

from penstock.migrate.carrying import Given, Made, carry, real, unknown, whole
from penstock.migrate.nemo_rl_table import TABLE

UNCAPPED = 1e6
"""A bound of a ratio where NeMo RL has none."""
METHODS = {"grpo": "grpo", "dpo": "dpo", "sft": "sft", "rm": "reward_model"}


def convert(given: Given, made: Made) -> None:
    """All of a NeMo RL configuration. Raises ValueError for one without a method."""
    if given.take("defaults") is not None:
        made.left("defaults", "other files are not read; convert the whole configuration, as NeMo RL prints it")
    method = next((m for m in METHODS if any(key.startswith(f"{m}.") for key in given.untaken())), None)
    if method is None:
        raise ValueError("has none of the sections grpo, dpo, sft, rm, so it says no method")
    made.set("algorithm.name", METHODS[method])
    seed = given.take(f"{method}.seed")
    made.set("learner.seed", seed)
    made.set("data.seed", seed)
    if method == "grpo":
        _groups(given, made)
        _advantage(given, made)
        _shaping(given, made)
        _loss(given, made)
        _kl(given, made)
        _correction(given, made)
    else:
        made.set("algorithm.groups_per_step", given.take("policy.train_global_batch_size"))
        made.set("algorithm.group_size", 1 if method == "sft" else 2)
    if method == "dpo":
        _preference(given, made)
    if method == "sft":
        made.set("algorithm.loss.normalisation", "token")
    _data(given, made)
    _backend(given, made)
    _optimizer(given, made)
    _telemetry(given, made)
    carry(given, made, TABLE)
    unknown(given, made, TABLE)


def _groups(given: Given, made: Made) -> None:
    prompts = whole(given.take("grpo.num_prompts_per_step", 32))
    answers = whole(given.take("grpo.num_generations_per_prompt", 16))
    made.set("algorithm.groups_per_step", prompts)
    made.set("algorithm.group_size", answers)
    batch = whole(given.take("policy.train_global_batch_size", prompts * answers))
    updates, rest = divmod(prompts * answers, batch)
    if rest:
        made.left("policy.train_global_batch_size", f"{batch} does not divide {prompts} x {answers}; one step a batch")
    elif updates > 1:
        made.set("algorithm.loss.mini_batches", updates)
    made.set("algorithm.steps", whole(given.take("grpo.max_num_steps")))
    asynchronous = given.take("grpo.async_grpo.enabled", False)
    age = given.take("grpo.async_grpo.max_trajectory_age_steps", 1)
    made.set("staleness.max_versions", whole(age) if asynchronous else 0)
    given.take("grpo.async_grpo.in_flight_weight_updates")  # always so
    again = given.take("grpo.async_grpo.recompute_kv_cache_after_weight_updates")
    made.set("generation.kv_on_update", None if again is None else ("recompute" if again else "keep"))


def _advantage(given: Given, made: Made) -> None:
    """Leave-one-out and division by the deviation are settings of the estimator, in either of two places."""
    name = given.take("grpo.adv_estimator.name", "grpo")
    divides = given.take_first("grpo.adv_estimator.normalize_rewards", "grpo.normalize_rewards", default=False)
    alone = given.take_first(
        "grpo.adv_estimator.use_leave_one_out_baseline", "grpo.use_leave_one_out_baseline", default=False
    )
    if name == "grpo" and alone:
        made.set("algorithm.advantage", "rloo")
        if divides:
            made.set("algorithm.advantage_settings.normalise", 1.0)
            made.left(
                "grpo.use_leave_one_out_baseline", "the baseline leaves one out, the deviation is of the whole group"
            )
    elif name == "grpo":
        made.set("algorithm.advantage", "grpo" if divides else "dr_grpo")
    elif name in ("gdpo", "opd"):
        made.set("algorithm.advantage", name)
    elif name == "reinforce_plus_plus":
        made.set("algorithm.advantage", "reinforce_pp")
        based = given.take("grpo.adv_estimator.minus_baseline", True)
        made.set("algorithm.advantage_settings", {"over_tokens": 1.0, "baseline": 1.0 if based else 0.0})
    else:
        made.left("grpo.adv_estimator.name", f"{name!r} is not here; batch_norm is what an absent advantage means")


def _shaping(given: Given, made: Made) -> None:
    scaling = given.take_below("grpo.reward_scaling")
    if scaling.get("enabled"):
        low, high = scaling.get("source_min", 0.0), scaling.get("source_max", 1.0)
        factor = (scaling.get("target_max", 1.0) - scaling.get("target_min", 0.0)) / (high - low)
        made.set("algorithm.reward_scale", factor)
        made.left(
            "grpo.reward_scaling",
            f"carried as the factor {factor:g}: a shift cancels in a baseline, and rewards are not clamped to "
            f"{low:g} … {high:g} (environment.rewards[].least and greatest refuse others)",
        )
    shaping = given.take_below("grpo.reward_shaping")
    if not shaping.get("enabled"):
        return
    if (length := shaping.get("overlong_buffer_length")) is not None:
        made.set("algorithm.overlong_buffer", whole(length))
    if (penalty := shaping.get("overlong_buffer_penalty", 1)) != 1:
        made.left("grpo.reward_shaping.overlong_buffer_penalty", f"is 1 here, not {penalty}")
    made.set("algorithm.truncated_scale", shaping.get("stop_properly_penalty_coef"))


def _loss(given: Given, made: Made) -> None:
    """cispo's bounds are 1 − ratio_clip_min and 1 + ratio_clip_max, of the ratio itself."""
    low, high = given.take("loss_fn.ratio_clip_min", 0.2), given.take("loss_fn.ratio_clip_max", 0.2)
    dual = given.take("loss_fn.ratio_clip_c")
    per_token = given.take("loss_fn.token_level_loss", True)
    cispo, plain = given.take("loss_fn.use_cispo", False), given.take("loss_fn.disable_ppo_ratio", False)
    sequences = given.take("loss_fn.sequence_level_importance_ratios", False)
    name = "cispo" if cispo else "reinforce" if plain else "gspo" if sequences else "ppo_clip"
    made.set("algorithm.loss.name", name)
    if name == "cispo":
        made.set("algorithm.loss.floor", round(1.0 - low, 12))
        made.set("algorithm.loss.cap", round(1.0 + high, 12))
    elif name != "reinforce":
        made.set("algorithm.loss.clip_low", real(low))
        made.set("algorithm.loss.clip_high", real(high))
    if dual is not None and name == "ppo_clip":
        made.set("algorithm.loss.dual_clip", real(dual))
    elif dual is not None:
        made.left("loss_fn.ratio_clip_c", f"{name} has no dual clip")
    made.set("algorithm.loss.normalisation", "token" if per_token else "sequence")


def _kl(given: Given, made: Made) -> None:
    """exp(c − sg(c)) · k3 has the gradient of k2 and exp(c − g) · k3 that of our differentiable k3."""
    penalty = real(given.take("loss_fn.reference_policy_kl_penalty", 0.0))
    kind = given.take("loss_fn.reference_policy_kl_type", "k3")
    in_reward = given.take("loss_fn.use_kl_in_reward", False)
    weighed = given.take("loss_fn.use_on_policy_kl_approximation", False)
    clamps = {"kl_input_clamp_value": ("log_ratio_limit", 20.0), "kl_output_clamp_value": ("value_limit", 10.0)}
    for key, (ours, most) in clamps.items():
        value = real(given.take(f"loss_fn.{key}", most))
        if value > most and penalty:
            made.left(f"loss_fn.{key}", f"is {most:g} at most, not {value:g}")
        elif value < most and penalty and not in_reward:
            made.set(f"algorithm.loss.kl.{ours}", value)
    if not penalty:
        return
    made.set("algorithm.loss.kl.coefficient", penalty)
    if in_reward:
        made.set("algorithm.loss.kl.place", "reward")
    elif kind == "k2":
        made.set("algorithm.loss.kl.estimator", "k2")
        made.set("algorithm.loss.kl.importance", "detached" if weighed else "none")
        made.left(
            "loss_fn.reference_policy_kl_type", "k2 there has k2 / 2 per log-prob more in its gradient; k3 is exact"
        )
    elif weighed:
        made.set("algorithm.loss.kl.estimator", kind)
        made.set("algorithm.loss.kl.importance", "differentiable")
    else:
        made.set("algorithm.loss.kl.estimator", "k2")
        made.set("algorithm.loss.kl.importance", "none")


def _correction(given: Given, made: Made) -> None:
    wanted = given.take("loss_fn.use_importance_sampling_correction", False)
    high = given.take("loss_fn.truncated_importance_sampling_ratio")
    low = given.take("loss_fn.truncated_importance_sampling_ratio_min")
    kind = given.take("loss_fn.truncated_importance_sampling_type", "tis")
    if not wanted:
        made.set("algorithm.loss.correction", "none")
        return
    bounds: dict[str, Any] = {"tis": {"cap": high or UNCAPPED}}
    bounds["icepop"] = {"low": low or 0.0, "high": high or UNCAPPED}
    bounds["seq-mask-tis"] = {**bounds["icepop"], "cap": UNCAPPED}
    if kind not in bounds:
        made.left(
            "loss_fn.truncated_importance_sampling_type", f"{kind!r} is not here; tis is what an absent one means"
        )
        return
    made.set("algorithm.loss.correction", kind.replace("-", "_"))
    for key, value in bounds[kind].items():
        made.set(f"algorithm.loss.correction_{key}", real(value))
    if kind == "tis" and low:
        made.left("loss_fn.truncated_importance_sampling_ratio_min", "tis has no lower bound")


def _preference(given: Given, made: Made) -> None:
    """The likelihood of the chosen answer is a sum over its tokens, or with averages a mean over them."""
    made.set("algorithm.preference.source", "dataset")
    averages = given.take("dpo.preference_average_log_probs", False)
    made.set("algorithm.preference.loss", "length_normalised" if averages else "sigmoid")
    weight = real(given.take("dpo.sft_loss_weight", 0.0))
    average = given.take("dpo.sft_average_log_probs", averages)
    if weight:
        made.set("algorithm.preference.nll_coefficient", weight)
        made.set("algorithm.preference.nll_normalisation", "sequence" if average else "sum")


def _data(given: Given, made: Made) -> None:
    """Files are carried; data sets that NeMo RL has by name are not."""
    for kind, target in (("train", "data.train"), ("validation", "data.eval")):
        old = "data.train_data_path" if kind == "train" else "data.val_data_path"
        path = given.take_first(f"data.{kind}.data_path", old)
        name = given.take(f"data.{kind}.dataset_name", given.take("data.dataset_name") if kind == "train" else None)
        split = given.take(f"data.{kind}.split")
        made.set(target, f"{path}:{split}" if path and split else path)
        if name and not path:
            made.left(f"data.{kind}.dataset_name", f"{name!r} is a loader of NeMo RL's; give {target} its rows")


def _backend(given: Given, made: Made) -> None:
    megatron = given.take("policy.megatron_cfg.enabled", False)
    mine, other = ("megatron", "dtensor") if megatron else ("dtensor", "megatron")
    given.take(f"policy.{other}_cfg.enabled")
    given.take_below(f"policy.{other}_cfg")  # of the backend that is off
    made.set("learner.backend", "megatron" if megatron else "transformers")
    prefix = f"policy.{mine}_cfg"
    sizes = {"tensor": "tensor_model_parallel_size" if megatron else "tensor_parallel_size"}
    sizes |= {"context": "context_parallel_size"}
    if megatron:
        sizes |= {"pipeline": "pipeline_model_parallel_size", "expert": "expert_model_parallel_size"}
    for name, key in sizes.items():
        if (size := given.take(f"{prefix}.{key}", 1)) != 1:
            if name == "context" and not megatron:
                made.left(f"{prefix}.{key}", "backend transformers has no context parallelism; use backend megatron")
            else:
                made.set(f"learner.parallel.{name}", size)
    if given.take(f"{prefix}.sequence_parallel", False) and megatron:
        made.set("learner.parallel.sequence_parallel", True)
    if given.take(f"{prefix}.activation_checkpointing", False):
        made.set("learner.recompute", "full")
    given.take(f"{prefix}.enabled")
    given.take(f"{prefix}._v2")
    _lora(given.take_below(f"{prefix}.lora_cfg") or given.take_below(f"{prefix}.peft"), made)
    if given.take(f"{prefix}.moe_router_load_balancing_type", "none") not in ("none",):
        made.left(f"{prefix}.moe_router_load_balancing_type", "see algorithm.router_coefficient")
    made.set("learner.optimizer.learning_rate", real(given.take(f"{prefix}.optimizer.lr")))
    for ours, theirs in (("beta1", "adam_beta1"), ("beta2", "adam_beta2"), ("epsilon", "adam_eps")):
        made.set(f"learner.optimizer.{ours}", real(given.take(f"{prefix}.optimizer.{theirs}")))
    made.set("learner.optimizer.weight_decay", real(given.take(f"{prefix}.optimizer.weight_decay")))
    warmup = whole(given.take(f"{prefix}.scheduler.lr_warmup_iters", 0)) if megatron else 0
    made.set("learner.optimizer.warmup_steps", warmup or None)
    style = given.take(f"{prefix}.scheduler.lr_decay_style", "constant")
    if style in ("linear", "cosine", "constant"):
        made.set("learner.optimizer.schedule", style if style != "constant" else None)
    else:
        made.left(f"{prefix}.scheduler.lr_decay_style", f"{style!r} is not here: constant, linear, cosine, wsd")


def _lora(settings: dict[str, Any], made: Made) -> None:
    if not settings.get("enabled"):
        return
    made.set("learner.lora.rank", whole(settings.get("dim", 8)))
    made.set("learner.lora.alpha", real(settings.get("alpha", 32)))
    if settings.get("dropout"):
        made.left("policy lora dropout", "adapters have no dropout here")


def _optimizer(given: Given, made: Made) -> None:
    """torch's optimizer, of the DTensor backend; Megatron has its own section."""
    kwargs = given.take_below("policy.optimizer")
    schedulers = given.take("policy.scheduler")
    if made.get("learner.backend") == "megatron" or not kwargs:
        return
    if "adamw" not in str(kwargs.get("name", "adamw")).lower():
        made.left("policy.optimizer.name", f"{kwargs['name']} is not here: adamw, muon")
    made.set("learner.optimizer.learning_rate", real(kwargs.get("kwargs.lr")))
    made.set("learner.optimizer.weight_decay", real(kwargs.get("kwargs.weight_decay")))
    made.set("learner.optimizer.epsilon", real(kwargs.get("kwargs.eps")))
    betas = kwargs.get("kwargs.betas") or [None, None]
    made.set("learner.optimizer.beta1", betas[0])
    made.set("learner.optimizer.beta2", betas[1])
    for each in schedulers if isinstance(schedulers, list) else []:
        name, settings = str(each.get("name", "")), each.get("kwargs") or {}
        if name.endswith("LinearLR"):
            made.set("learner.optimizer.warmup_steps", whole(settings.get("total_iters", 0)))
            if settings.get("start_factor", 0):
                made.left(
                    "policy.scheduler", f"warm-up starts at 0 here, not at {settings['start_factor']} of the rate"
                )
        elif name and not name.endswith("ConstantLR"):
            made.left("policy.scheduler", f"{name} is not here; see learner.optimizer.schedule")


def _telemetry(given: Given, made: Made) -> None:
    project, on = given.take("logger.wandb.project"), given.take("logger.wandb_enabled", False)
    made.set("telemetry.wandb_project", project if on else None)
    experiment, on = given.take("logger.mlflow.experiment_name"), given.take("logger.mlflow_enabled", False)
    made.set("telemetry.mlflow_experiment", experiment if on else None)
