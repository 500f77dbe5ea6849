"""TRL's trainers that draw samples: GRPO, and GKD, whose students write what they learn from."""

from collections.abc import Callable
from typing import Any

from penstock.migrate.carrying import Given, Made, real, whole

DEVICES = "counted for one device; multiply algorithm.groups_per_step by their number"
EPSILON = 1e-4
"""What TRL adds to a deviation."""


def grpo(given: Given, made: Made) -> None:
    """The arguments of GRPOTrainer."""
    made.set("algorithm.name", "grpo")
    made.set("staleness.max_versions", 0)
    _batches(given, made)
    _sampling(given, made)
    _rewards(given, made)
    _advantage(given, made)
    loss = given.take("loss_type", "dapo")
    level = given.take("importance_sampling_level", "token")
    _loss(given, made, loss, level)
    _correction(given, made, loss)
    if beta := real(given.take("beta", 0.0)):
        made.set("algorithm.loss.kl.coefficient", beta)
        made.set("algorithm.loss.kl.estimator", "k3")
        made.set("algorithm.loss.kl.importance", "none")
    if given.take("use_bias_correction_kl", False) and beta:
        made.set("algorithm.loss.kl.importance", "differentiable")
        made.left("use_bias_correction_kl", "weighed by exp(c − g), the engine's log-prob, instead of exp(c − p)")
    if (share := real(given.take("top_entropy_quantile", 1.0))) < 1:
        made.set("algorithm.loss.top_entropy", share)
    made.set("algorithm.loss.entropy_coefficient", given.take("entropy_coef"))
    made.set("algorithm.filters.truncated", True if given.take("mask_truncated_completions", False) else None)
    reference(given, made, bool(beta))


def gkd(given: Given, made: Made) -> None:
    """The arguments of GKDTrainer where all samples are the student's (lmbda 1)."""
    made.set("algorithm.name", "grpo")
    made.set("algorithm.advantage", "opd")
    made.set("staleness.max_versions", 0)
    made.set("teacher.path", given.take("teacher_model_name_or_path"))
    made.set("teacher.top", 32)
    _batches(given, made)
    made.set("algorithm.group_size", 1)
    made.set("sampling.max_tokens", whole(given.take("max_new_tokens", 128)))
    made.set("sampling.temperature", real(given.take("temperature", 0.9)))
    beta = real(given.take("beta", 0.5))
    made.set("teacher.divergence", "forward" if beta < 0.5 else "reverse")
    made.left(
        "beta", f"{beta:g} lies between KL(teacher, policy) at 0 and KL(policy, teacher) at 1; one of both is here"
    )
    if (share := given.take("lmbda", 0.5)) != 1:
        made.left("lmbda", f"all samples are the policy's own here (1), not {share:g} of them")
    if given.take("seq_kd", False):
        made.left("seq_kd", "samples are the policy's own; imitate the teacher's with algorithm.name sft")
    made.left("teacher.top", "the 32 likeliest tokens of the teacher and the rest stand for its whole distribution")


def reference(given: Given, made: Made, compares: bool) -> None:
    """A reference that follows the policy (TR-DPO)."""
    mix, every = given.take("ref_model_mixup_alpha", 0.6), given.take("ref_model_sync_steps", 512)
    if not given.take("sync_ref_model", False):
        return
    if not compares:
        made.left("sync_ref_model", "nothing is compared with a reference")
        return
    made.set("algorithm.reference.sync_every", whole(every))
    made.set("algorithm.reference.mix", real(mix))


def _batches(given: Given, made: Made) -> None:
    """An optimizer step there is a mini-batch here, and what is drawn at once is a batch."""
    size = whole(given.take("num_generations", 8))
    device = whole(given.take("per_device_train_batch_size", 8))
    gathered = whole(given.take("gradient_accumulation_steps", 1))
    turns = whole(given.take("steps_per_generation", gathered))
    drawn = whole(given.take("generation_batch_size", device * turns))
    groups, rest = divmod(drawn, size)
    made.set("algorithm.group_size", size)
    made.set("algorithm.groups_per_step", max(groups, 1))
    made.left("per_device_train_batch_size", DEVICES)
    if rest:
        made.left("num_generations", f"{drawn} samples on a device are no whole groups of {size}")
    updates = max(drawn // (device * gathered), 1)
    if updates > 1:
        made.set("algorithm.loss.mini_batches", updates)
        if (steps := made.get("algorithm.steps")) is not None:
            made.set("algorithm.steps", -(-steps // updates))
    if (passes := given.take("num_iterations", 1)) != 1:
        made.left("num_iterations", f"a batch is trained on once, not {passes} times; see algorithm.loss.mini_batches")


def _sampling(given: Given, made: Made) -> None:
    made.set("sampling.max_tokens", whole(given.take("max_completion_length", 256)))
    made.set("sampling.temperature", real(given.take("temperature", 1.0)))
    made.set("sampling.top_p", real(given.take("top_p", 1.0)))
    top = whole(given.take("top_k", 0))
    made.set("sampling.top_k", max(top, 0))
    for key, usual in (("min_p", 0.0), ("repetition_penalty", 1.0)):
        if given.take(key, usual) != usual:
            made.left(key, "cuts the distribution that the learner compares with; samples are drawn without")
    more = given.take_below("generation_kwargs")
    if "stop" in more:
        stop = more.pop("stop")
        made.set("sampling.stop", stop if isinstance(stop, list) else [stop])
    for key in more:
        made.left(f"generation_kwargs.{key}", "is no key of sampling")
    made.set("generation.max_context", given.take("vllm_max_model_length"))
    made.set("generation.tensor", given.take("vllm_tensor_parallel_size"))
    made.set("generation.gpu_memory_fraction", given.take("vllm_gpu_memory_utilization"))
    for key in ("vllm_mode", "vllm_server_host", "vllm_server_port", "vllm_server_base_url", "vllm_server_timeout"):
        if given.take(key) is not None:
            made.left(key, "engines are services of the run: generation.replicas")
    for key in ("vllm_enable_sleep_mode", "vllm_model_impl", "use_transformers_paged", "ds3_gather_for_generation"):
        given.take(key)  # how TRL shares a device; engines have their own here


def _rewards(given: Given, made: Made) -> None:
    names, weights = given.take_list("reward_funcs"), given.take_list("reward_weights")
    if given.take("multi_objective_aggregation", "sum_then_normalize") == "normalize_then_sum":
        made.set("algorithm.advantage", "gdpo")
    if not names:
        return
    parts = [{"name": str(name).rpartition(".")[2]} for name in names]
    rewards: list[dict[str, Any]] = [
        {**part, **({"weight": real(weight)} if weight is not None else {})}
        for part, weight in zip(parts, weights or [None] * len(parts), strict=False)
    ]
    made.set("environment.name", rewards[0]["name"])
    made.set("environment.rewards", rewards)
    made.left("reward_funcs", "carried by name; a reward is a service that must be written: write-a-reward.md")


def _advantage(given: Given, made: Made) -> None:
    """`batch` divides by the deviation of the rewards themselves, not of what the group's mean leaves."""
    scale = given.take("scale_rewards", "group")
    if made.get("algorithm.advantage") == "gdpo":
        return
    scale = {True: "group", False: "none"}.get(scale, scale) if isinstance(scale, bool) else str(scale).lower()
    name = {"group": "grpo", "none": "dr_grpo", "batch": "batch_norm", "true": "grpo", "false": "dr_grpo"}.get(scale)
    if name is None:
        made.left("scale_rewards", f"{scale!r} is none of group, batch, none")
        return
    made.set("algorithm.advantage", name)
    if name != "dr_grpo":
        made.set("algorithm.advantage_settings", {"epsilon": EPSILON} | ({"raw": 1.0} if scale == "batch" else {}))


def _loss(given: Given, made: Made, loss: str, level: str) -> None:
    """cispo's cap is the ratio itself in both; a group's mean of sums is a constant over max_completion_length here."""
    low = real(given.take("epsilon", 0.2))
    high = real(given.take("epsilon_high", low))
    delta = given.take("delta")
    normalisations = {"grpo": "sequence", "sapo": "sequence", "dr_grpo": "constant", "luspo": "constant"}
    made.set("algorithm.loss.normalisation", normalisations.get(loss, "token"))
    taus = {"tau_positive": ("sapo_temperature_pos", 1.0), "tau_negative": ("sapo_temperature_neg", 1.05)}
    vespo = {"power_positive": ("vespo_k_pos", 2.0), "decay_positive": ("vespo_lambda_pos", 3.0)}
    vespo |= {"power_negative": ("vespo_k_neg", 3.0), "decay_negative": ("vespo_lambda_neg", 2.0)}
    own = {"sapo": taus, "vespo": vespo}
    sequences = level in ("sequence", "sequence_token")
    name = loss if loss in ("cispo", "sapo", "vespo") else "gspo" if sequences or loss == "luspo" else "ppo_clip"
    made.set("algorithm.loss.name", name)
    for choice, parameters in own.items():
        for ours, (theirs, usual) in parameters.items():
            value = real(given.take(theirs, usual))
            if choice == name:
                made.set(f"algorithm.loss.{ours}", value)
    if name == "cispo":
        made.set("algorithm.loss.cap", high)
    elif name in ("ppo_clip", "gspo"):
        made.set("algorithm.loss.clip_low", low)
        made.set("algorithm.loss.clip_high", high)
    if delta is not None and name == "ppo_clip":
        made.set("algorithm.loss.dual_clip", real(delta))
    elif delta is not None:
        made.left("delta", f"{name} has no dual clip")
    if loss == "luspo":
        made.left(
            "loss_type", "luspo is gspo with constant normalisation; its loss is max_completion_length times ours"
        )
    if sequences and name in ("cispo", "sapo"):
        made.left("importance_sampling_level", f"{name} has ratios of tokens here")


MODES: dict[str, Callable[[float, float], dict[str, Any]]] = {
    "token_truncate": lambda low, high: {"correction": "tis", "correction_cap": high},
    "token_mask": lambda low, high: {"correction": "icepop", "correction_low": low, "correction_high": high},
    "sequence_truncate": lambda low, high: {
        "correction": "tis_sequence",
        "correction_low": low,
        "correction_cap": high,
    },
    "sequence_mask": lambda low, high: {
        "correction": "icepop_sequence",
        "correction_low": low,
        "correction_high": high,
    },
}


def _correction(given: Given, made: Made, loss: str) -> None:
    """vLLM's samples are weighed; TRL's own sampler needs no weight, but there is none here."""
    vllm = given.take("use_vllm", False)
    wanted = given.take("vllm_importance_sampling_correction", True)
    mode = given.take("vllm_importance_sampling_mode", "sequence_mask")
    high = real(given.take_first("vllm_importance_sampling_clip_max", "vllm_importance_sampling_cap", default=3.0))
    low = real(given.take("vllm_importance_sampling_clip_min", 0.0))
    limit = given.take("off_policy_mask_threshold")
    if loss == "vespo":
        made.set("algorithm.loss.correction", "none")
    elif limit is not None:
        made.set("algorithm.loss.correction", "opsm")
        made.set("algorithm.loss.correction_limit", real(limit))
        if wanted and vllm:
            made.left("vllm_importance_sampling_mode", "one correction at a time: off_policy_mask_threshold's opsm")
    elif not vllm:
        made.left("use_vllm", "samples are always drawn by vLLM; the default correction (tis) weighs its mismatch")
    elif not wanted:
        made.set("algorithm.loss.correction", "none")
    elif mode not in MODES:
        made.left("vllm_importance_sampling_mode", f"{mode!r} is none of {', '.join(MODES)}")
    else:
        for key, value in MODES[mode](low, high).items():
            made.set(f"algorithm.loss.{key}", value)
        if mode == "token_truncate" and low:
            made.left("vllm_importance_sampling_clip_min", "tis has no lower bound")
