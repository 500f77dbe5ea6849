"""verl: its PPO trainer, GRPO and the like included."""

from typing import Any

from penstock.migrate.carrying import Given, Made, carry, real, unknown, whole
from penstock.migrate.verl_correction import correction
from penstock.migrate.verl_table import ACTOR, ROLLOUT, TABLE

ADVANTAGES: dict[str, dict[str, Any]] = {
    "gae": {"advantage": "gae"},
    "rloo": {"advantage": "rloo"},
    "rloo_vectorized": {"advantage": "rloo"},
    "opo": {"advantage": "opo"},
    "gdpo": {"advantage": "gdpo"},
    "reinforce_plus_plus": {
        "advantage": "reinforce_pp",
        "advantage_settings": {"baseline": 0.0, "over_tokens": 1.0, "epsilon": 1e-8},
    },
    "reinforce_plus_plus_baseline": {
        "advantage": "reinforce_pp",
        "advantage_settings": {"over_tokens": 1.0, "epsilon": 1e-8},
    },
}
"""Of algorithm.adv_estimator; grpo's depends on one key more."""
AGGREGATIONS = {
    "token-mean": "token",
    "seq-mean-token-mean": "sequence",
    "seq-mean-token-sum": "constant",
    "seq-mean-token-sum-norm": "constant",
}
KL = {
    "kl": "k1",
    "abs": "abs",
    "mse": "k2",
    "low_var_kl": "k3",
    **{"kl+": "k1+", "abs+": "k2", "mse+": "k2", "low_var_kl+": "k3+"},
    **{"k1": "k1", "k2": "k2", "k3": "k3", "k1+": "k1+", "k2+": "k2", "k3+": "k3+"},
}
"""By verl's words; those with + have the gradient of mse."""


def convert(given: Given, made: Made) -> None:
    """All of a verl configuration, from its own defaults."""
    if given.take("defaults") is not None:
        made.left("defaults", "other files are not read; what they say beyond verl's own defaults is missing")
    for key in [key for key in given.untaken() if key.endswith("_target_")]:
        given.take(key)
    made.set("algorithm.name", "grpo")
    made.set("learner.optimizer", {"learning_rate": 1e-6, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.999})
    made.set("sampling.max_tokens", 512)
    _advantage(given, made)
    _loss(given, made)
    _kl(given, made)
    correction(given, made)
    _critic(given, made)
    _data(given, made)
    _layout(given, made)
    _when(given, made)
    _overlong(given, made)
    _mini_batches(given, made)
    carry(given, made, TABLE)
    unknown(given, made, TABLE)


def _advantage(given: Given, made: Made) -> None:
    name = str(given.take("algorithm.adv_estimator", "gae"))
    divides = given.take("algorithm.norm_adv_by_std_in_grpo", True)
    made.set("algorithm.group_size", whole(given.take(f"{ROLLOUT}.n", 1)))
    if name in ("grpo", "grpo_vectorized"):
        made.set("algorithm.advantage", "grpo" if divides else "dr_grpo")
    elif name in ADVANTAGES:
        for key, value in ADVANTAGES[name].items():
            made.set(f"algorithm.{key}", value)
    else:
        made.left("algorithm.adv_estimator", f"{name!r} is not here; there are grpo, {', '.join(ADVANTAGES)}")
    discount, decay = real(given.take("algorithm.gamma", 1.0)), real(given.take("algorithm.lam", 1.0))
    if name == "gae":
        made.set("algorithm.critic.discount", discount)
        made.set("algorithm.critic.decay", decay)
    elif discount != 1:
        made.left("algorithm.gamma", f"an answer's tokens share its reward undiscounted with {name}")


def _loss(given: Given, made: Made) -> None:
    """cispo's bounds are 1 − clip_ratio_low and 1 + clip_ratio_high; geo_mean's are of the logarithm, as here."""
    usual = given.take(f"{ACTOR}.clip_ratio", 0.2)
    low = real(given.take(f"{ACTOR}.clip_ratio_low", usual))
    high = real(given.take(f"{ACTOR}.clip_ratio_high", usual))
    dual = given.take(f"{ACTOR}.clip_ratio_c", 3.0)
    taus = real(given.take(f"{ACTOR}.tau_pos", 1.0)), real(given.take(f"{ACTOR}.tau_neg", 1.05))
    mode = str(given.take(f"{ACTOR}.policy_loss.loss_mode", "vanilla")).replace("-", "_")
    given.take_below(f"{ACTOR}.policy_loss")
    names = {"vanilla": "ppo_clip", "gpg": "reinforce", "dppo_tv": "dppo"}
    names |= {same: same for same in ("gspo", "geo_mean", "cispo", "sapo")}
    name = names.get(mode)
    if name is None:
        made.left(f"{ACTOR}.policy_loss.loss_mode", f"{mode!r} is not here; there are {', '.join(names)}")
        name = "ppo_clip"
    made.set("algorithm.loss.name", name)
    if name in ("ppo_clip", "gspo", "geo_mean"):
        made.set("algorithm.loss.clip_low", low)
        made.set("algorithm.loss.clip_high", high)
    elif name == "cispo":
        made.set("algorithm.loss.floor", round(1.0 - low, 12))
        made.set("algorithm.loss.cap", round(1.0 + high, 12))
    elif name == "sapo":
        made.set("algorithm.loss.tau_positive", taus[0])
        made.set("algorithm.loss.tau_negative", taus[1])
    elif name == "dppo":
        made.set("algorithm.loss.delta", high)
        made.set("algorithm.loss.tau", 0.0)
        if low != high:
            made.left(f"{ACTOR}.clip_ratio_low", f"dppo has one bound for both directions: {high:g}")
    if name == "ppo_clip":
        made.set("algorithm.loss.dual_clip", real(dual))
    aggregation = str(given.take(f"{ACTOR}.loss_agg_mode", "token-mean"))
    scale = given.take(f"{ACTOR}.loss_scale_factor")
    if aggregation not in AGGREGATIONS:
        made.left(f"{ACTOR}.loss_agg_mode", f"{aggregation!r} is not here: {', '.join(AGGREGATIONS)}")
    made.set("algorithm.loss.normalisation", AGGREGATIONS.get(aggregation))
    if aggregation == "seq-mean-token-sum":
        made.left(f"{ACTOR}.loss_agg_mode", "divided by sampling.max_tokens here, so the loss is that much smaller")
    if scale is not None:
        made.left(f"{ACTOR}.loss_scale_factor", "constant normalisation divides by sampling.max_tokens")


def _kl(given: Given, made: Made) -> None:
    in_loss, in_reward = given.take(f"{ACTOR}.use_kl_loss", False), given.take("algorithm.use_kl_in_reward", False)
    coefficient, kind = (
        real(given.take(f"{ACTOR}.kl_loss_coef", 0.001)),
        str(given.take(f"{ACTOR}.kl_loss_type", "low_var_kl")),
    )
    charge, how = real(given.take("algorithm.kl_ctrl.kl_coef", 0.001)), str(given.take("algorithm.kl_penalty", "kl"))
    adapts = given.take("algorithm.kl_ctrl.type", "fixed")
    if in_loss:
        made.set("algorithm.loss.kl.coefficient", coefficient)
        if kind in KL:
            made.set("algorithm.loss.kl.estimator", KL[kind])
            made.set("algorithm.loss.kl.importance", "none")
        else:
            made.left(f"{ACTOR}.kl_loss_type", f"{kind!r} is not here: {', '.join(KL)}")
        if in_reward:
            made.left("algorithm.use_kl_in_reward", "the KL is in the loss already; one place at a time")
    elif in_reward:
        made.set("algorithm.loss.kl.coefficient", charge)
        made.set("algorithm.loss.kl.place", "reward")
        made.left(
            "algorithm.kl_penalty", "the penalty joins the advantage behind the baseline, undivided by a deviation"
        )
        if how not in ("kl", "k1"):
            made.left("algorithm.kl_penalty", f"a reward is charged k1 here, not {how}")
        if adapts != "fixed":
            made.left("algorithm.kl_ctrl.type", "the coefficient is fixed")


def _critic(given: Given, made: Made) -> None:
    path, rate = given.take("critic.model.path"), real(given.take("critic.optim.lr", 1e-5))
    clip = real(given.take("critic.cliprange_value", 0.5))
    warmup = given.take("trainer.critic_warmup")
    if made.get("algorithm.advantage") != "gae":
        given.take_below("critic")
        return
    made.set("algorithm.critic.path", path)
    made.set("algorithm.critic.learning_rate", rate)
    made.set("algorithm.critic.clip", clip)
    made.set("algorithm.critic.warmup_steps", whole(warmup) if warmup else None)
    given.take("critic.enable")


def _data(given: Given, made: Made) -> None:
    for key, target in (("data.train_files", "data.train"), ("data.val_files", "data.eval")):
        files = [str(each) for each in given.take_list(key)]
        made.set(target, files[0] if files else None)
        if len(files) > 1:
            made.left(key, f"one file, pattern or directory: {files[0]} alone was carried; see mixture")
    field = given.take("data.prompt_key", "prompt")
    made.set("data.messages", None if field == "prompt" else field)
    prompt, answer = (
        whole(given.take("data.max_prompt_length", 512)),
        whole(given.take("data.max_response_length", 512)),
    )
    made.set("generation.max_context", prompt + answer)
    made.set("sampling.max_tokens", answer)
    tasks = given.take("data.val_max_samples", -1)
    made.set("evaluation.tasks", whole(tasks) if tasks > 0 else None)
    for key, target in (("temperature", "evaluation.temperature"), ("n", "evaluation.samples_per_task")):
        made.set(target, given.take(f"{ROLLOUT}.val_kwargs.{key}"))


def _layout(given: Given, made: Made) -> None:
    strategy = str(given.take(f"{ACTOR}.strategy", "fsdp"))
    made.set("learner.backend", "megatron" if strategy == "megatron" else "transformers")
    if strategy not in ("megatron", "fsdp", "fsdp2"):
        made.left(f"{ACTOR}.strategy", f"{strategy!r} is not here; learner.backend transformers or megatron")
    for name in ("tensor", "pipeline", "context", "expert"):
        size = given.take(f"{ACTOR}.megatron.{name}_model_parallel_size")
        size = size or given.take(f"{ACTOR}.megatron.{name}_parallel_size")
        if size and size != 1 and strategy == "megatron":
            made.set(f"learner.parallel.{name}", whole(size))
    if (size := given.take(f"{ACTOR}.ulysses_sequence_parallel_size", 1)) != 1:
        made.left(
            f"{ACTOR}.ulysses_sequence_parallel_size", "context parallelism is backend megatron's: parallel.context"
        )
    nodes, devices = given.take("trainer.nnodes", 1), given.take("trainer.n_gpus_per_node", 8)
    made.set("learner.ranks", whole(nodes) * whole(devices))
    rank = given.take("actor_rollout_ref.model.lora_rank", 0)
    if rank:
        made.set("learner.lora.rank", whole(rank))
        made.set("learner.lora.alpha", 16.0)
    else:
        given.take("actor_rollout_ref.model.lora_alpha")
    betas = given.take(f"{ACTOR}.optim.betas")
    for name, value in zip(("beta1", "beta2"), betas or (), strict=False):
        made.set(f"learner.optimizer.{name}", value)
    if given.take(f"{ACTOR}.fsdp_config.optimizer_offload", False):
        made.set("learner.offload", ["optimizer"])
    if given.take(f"{ACTOR}.fsdp_config.param_offload", False):
        made.left(f"{ACTOR}.fsdp_config.param_offload", "weights stay on the device; learner.offload has the optimizer")


def _when(given: Given, made: Made) -> None:
    """verl saves and measures never where its frequencies are -1."""
    saves, tests = given.take("trainer.save_freq", -1), given.take("trainer.test_freq", -1)
    made.set("learner.checkpoints.every", whole(saves) if saves > 0 else None)
    made.set("evaluation.every", whole(tests) if tests > 0 else None)
    steps, share = (
        given.take(f"{ACTOR}.optim.lr_warmup_steps", -1),
        given.take(f"{ACTOR}.optim.lr_warmup_steps_ratio", 0.0),
    )
    total = given.take("trainer.total_training_steps")
    made.set("algorithm.steps", None if total is None else whole(total))
    if steps <= 0 and share and total:
        steps = int(share * total)
    elif steps <= 0 and share:
        made.left(
            f"{ACTOR}.optim.lr_warmup_steps_ratio", f"write learner.optimizer.warmup_steps: {share:g} of the steps"
        )
    made.set("learner.optimizer.warmup_steps", whole(steps) if steps > 0 else None)
    schedule = given.take_first(f"{ACTOR}.optim.lr_scheduler_type", f"{ACTOR}.optim.warmup_style", default="constant")
    made.set("learner.optimizer.schedule", schedule if schedule in ("cosine", "linear") else None)
    if (least := given.take(f"{ACTOR}.optim.min_lr_ratio")) is not None and schedule == "cosine":
        made.set("learner.optimizer.final_ratio", real(least))
    given.take(f"{ACTOR}.optim.total_training_steps")
    loggers, project = [str(each) for each in given.take_list("trainer.logger")], given.take("trainer.project_name")
    made.set("telemetry.wandb_project", (project or "verl_examples") if "wandb" in loggers else None)
    made.set("telemetry.mlflow_experiment", (project or "verl_examples") if "mlflow" in loggers else None)
    name = given.take("trainer.experiment_name")
    made.set("run", _slug(name))


def _slug(name: Any) -> str | None:
    """A name as runs have them; None if nothing of it can be one."""
    kept = "".join(c if c.isalnum() or c in "-_" else "-" for c in str(name or "").lower()).strip("-_")[:63]
    return kept if kept.isascii() and kept else None


def _overlong(given: Given, made: Made) -> None:
    for prefix in (
        "reward_model.overlong_buffer",
        "reward.reward_kwargs.overlong_buffer_cfg",
        "reward_model.reward_kwargs.overlong_buffer_cfg",
    ):
        buffer = given.take_below(prefix)
        if not buffer.get("enable"):
            continue
        made.set("algorithm.overlong_buffer", whole(buffer.get("len", 0)))
        if (factor := buffer.get("penalty_factor", 1.0)) != 1:
            made.left(f"{prefix}.penalty_factor", f"is 1 here, not {factor:g}")


def _mini_batches(given: Given, made: Made) -> None:
    """Both are counted in prompts."""
    groups = whole(given.take("data.train_batch_size", 1024))
    made.set("algorithm.groups_per_step", groups)
    updates, rest = divmod(groups, whole(given.take(f"{ACTOR}.ppo_mini_batch_size", 256)))
    if updates > 1:
        made.set("algorithm.loss.mini_batches", updates)
    if rest:
        made.left(
            f"{ACTOR}.ppo_mini_batch_size",
            f"does not divide data.train_batch_size {groups}; {max(updates, 1)} steps a batch",
        )
    if (passes := given.take(f"{ACTOR}.ppo_epochs", 1)) != 1:
        made.left(f"{ACTOR}.ppo_epochs", f"a batch is trained on once, not {passes} times")
