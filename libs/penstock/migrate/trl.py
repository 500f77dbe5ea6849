"""TRL: which trainer the arguments are of, what all trainers have alike, and what `transformers` gives them.

A file has the arguments of one trainer (`GRPOConfig.to_dict()`, or the YAML of the `trl` command), and rarely says
which. `trainer: grpo` in it says so; else the arguments that only one trainer has do.
"""

from collections.abc import Callable, Mapping

from penstock.migrate import trl_rollouts, trl_rows
from penstock.migrate.carrying import Given, Made, carry, real, unknown, whole
from penstock.migrate.trl_table import TABLE

TRAINERS: Mapping[str, Callable[[Given, Made], None]] = {
    "grpo": trl_rollouts.grpo,
    "dpo": trl_rows.dpo,
    "sft": trl_rows.sft,
    "reward": trl_rows.reward,
    "kto": trl_rows.kto,
    "gkd": trl_rollouts.gkd,
}
TELLING = {
    "grpo": ("num_generations", "epsilon", "scale_rewards", "reward_funcs", "steps_per_generation"),
    "gkd": ("lmbda", "seq_kd", "teacher_model_name_or_path"),
    "kto": ("desirable_weight", "undesirable_weight"),
    "reward": ("center_rewards_coefficient",),
    "dpo": (
        "rpo_alpha",
        "f_divergence_type",
        "label_smoothing",
        "loss_weights",
        "precompute_ref_log_probs",
        "ld_alpha",
    ),
    "sft": ("assistant_only_loss", "completion_only_loss", "dataset_text_field", "packing", "eos_token"),
}
"""Arguments that are of one trainer alone, the first found decides."""
RATES = {"grpo": 1e-6, "dpo": 1e-6, "kto": 1e-6, "sft": 2e-5, "reward": 1e-4, "gkd": 2e-5}


def convert(given: Given, made: Made) -> None:
    """All arguments of a trainer. Raises ValueError where nothing tells which."""
    said = given.take("trainer")
    trainer = str(said or next((t for t, keys in TELLING.items() if any(key in given for key in keys)), ""))
    if trainer not in TRAINERS:
        known = ", ".join(TRAINERS)
        raise ValueError(
            f"trainer: {trainer!r} is not one of {known}"
            if trainer
            else f"does not say which trainer it is of; add a line `trainer: NAME` ({known})"
        )
    _optimizer(given, made, RATES[trainer])
    _model_and_data(given, made)
    _when(given, made)
    TRAINERS[trainer](given, made)
    carry(given, made, TABLE)
    unknown(given, made, [*TABLE, *(key for keys in TELLING.values() for key in keys)])


def _optimizer(given: Given, made: Made, rate: float) -> None:
    """What transformers' trainer means where nothing is said is another thing than here, so all is written out."""
    made.set("learner.optimizer.learning_rate", real(given.take("learning_rate", rate)))
    made.set("learner.optimizer.weight_decay", real(given.take("weight_decay", 0.0)))
    made.set("learner.optimizer.beta1", real(given.take("adam_beta1", 0.9)))
    made.set("learner.optimizer.beta2", real(given.take("adam_beta2", 0.999)))
    made.set("learner.optimizer.epsilon", real(given.take("adam_epsilon", 1e-8)))
    made.set("learner.optimizer.clip_gradient", real(given.take("max_grad_norm", 1.0)))
    schedule = str(given.take("lr_scheduler_type", "linear")).rpartition(".")[2].lower()
    ours = {"constant": "constant", "constant_with_warmup": "constant", "linear": "linear", "cosine": "cosine"}
    ours |= {"warmup_stable_decay": "wsd"}
    if schedule in ours:
        made.set("learner.optimizer.schedule", ours[schedule])
    else:
        made.left("lr_scheduler_type", f"{schedule!r} is not here: {', '.join(sorted(set(ours.values())))}")
    steps, share = given.take("warmup_steps", 0), given.take("warmup_ratio", 0.0)
    total = given.take("max_steps", -1)
    if 0 < steps < 1:
        steps, share = 0, steps  # newer transformers: a share may stand there
    if not steps and share and total > 0:
        steps = int(-(-share * total // 1))
    elif not steps and share:
        made.left("warmup_ratio", f"write learner.optimizer.warmup_steps: {share:g} of algorithm.steps")
    made.set("learner.optimizer.warmup_steps", whole(steps) or None)
    name = str(given.take("optim", "adamw_torch")).rpartition(".")[2].lower()
    if not name.startswith("adamw"):
        made.left("optim", f"{name!r} is not here: adamw, muon")


def _model_and_data(given: Given, made: Made) -> None:
    made.set("model.path", given.take_first("model_name_or_path", "model"))
    types = {"bfloat16": "bfloat16", "float16": "float16", "float32": "float32"}
    dtype = "bfloat16" if given.take("bf16", False) else "float16" if given.take("fp16", False) else None
    dtype = dtype or types.get(str(given.take_first("dtype", "torch_dtype")).removeprefix("torch."))
    made.set("model.dtype", dtype)
    name, config = given.take("dataset_name"), given.take("dataset_config")
    for split, target in (("dataset_train_split", "data.train"), ("dataset_test_split", "data.eval")):
        part = given.take(split, "train" if target == "data.train" else None)
        if name and part:
            made.set(target, ":".join(str(each) for each in (name, config, part) if each))
    seed = given.take("seed", 42)
    made.set("learner.seed", seed)
    made.set("data.seed", given.take("data_seed", seed))
    made.set("data.shuffle", given.take("shuffle_dataset"))
    if given.take("use_peft", False):
        made.set("learner.lora.rank", whole(given.take("lora_r", 16)))
        made.set("learner.lora.alpha", real(given.take("lora_alpha", 32)))
        if given.take("lora_dropout", 0.05):
            made.left("lora_dropout", "adapters have no dropout here")
    if given.take("gradient_checkpointing", True):
        made.set("learner.recompute", "full")
    made.set("learner.backend", "transformers")


def _when(given: Given, made: Made) -> None:
    epochs = given.take("num_train_epochs")
    if (steps := given.take("max_steps", -1)) > 0:
        made.set("algorithm.steps", whole(steps))
    elif epochs is not None:
        made.left("num_train_epochs", f"{epochs:g} passes: write algorithm.steps, rows / groups_per_step a pass")
    every = given.take("save_steps", 500)
    if given.take("save_strategy", "steps") == "steps" and every >= 1:
        made.set("learner.checkpoints.every", whole(every))
    made.set("learner.checkpoints.keep", given.take("save_total_limit"))
    measured, every = given.take_first("eval_strategy", "evaluation_strategy", default="no"), given.take("eval_steps")
    if measured != "no":
        made.set("evaluation.every", whole(every) if every and every >= 1 else None)
        if not every:
            made.left("eval_strategy", f"{measured!r}: write evaluation.every, in steps")
    reports = [str(each) for each in given.take_list("report_to")]
    made.set("telemetry.tensorboard", True if "tensorboard" in reports or "all" in reports else None)
    for name, target in (("wandb", "telemetry.wandb_project"), ("mlflow", "telemetry.mlflow_experiment")):
        if name in reports:
            made.set(target, given.take("project", "migrated"))
    given.take("project")
