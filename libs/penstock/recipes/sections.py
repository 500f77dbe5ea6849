"""The sections of a recipe: typed, strict, with their defaults and units. Unknown keys are refused everywhere."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A mapping of the recipe; unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class Model(Section):
    """The policy a run starts from."""

    path: str = Field(description="Hugging Face model directory")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="type of the weights in training and generation; fp32 main weights are kept beside the short ones, "
        "and float16 is trained with dynamic loss scaling",
    )


class Curriculum(Section):
    """Which rows are drawn again, by how their groups were rewarded before. Rewards are taken as pass rates: 0 to 1."""

    retire_at: float = Field(default=1.0, description="a row is solved when its group's mean reward is at least this")
    retire_after: int = Field(
        default=0, ge=0, description="a row solved in so many groups in a row is drawn no more; 0 retires none"
    )
    focus: Fraction = Field(
        default=0.0,
        description="0 draws all rows alike; 1 draws a row of pass rate p with chance 4 p (1 - p): most at one half",
    )
    least: Fraction = Field(default=0.1, description="with focus: the least chance of a row, so that none is forgotten")


class Data(Section):
    """What to train on and to measure with: JSON Lines, parquet, or a Hugging Face dataset's directory."""

    train: str = Field(description="training rows: a file, a pattern of parquet files, or a directory")
    eval: str | None = Field(default=None, description="held-out rows, likewise")
    prompt: str = Field(default="{prompt}", description="user message of a row; {field} is replaced by the row's field")
    completion: str = Field(default="{target}", description="assistant message of a row (sft, and dpo with `label`)")
    system: str | None = Field(default=None, description="system message put before every prompt")
    train_on: tuple[Literal["assistant", "user", "system", "tool", "all"], ...] = Field(
        default=("assistant",), min_length=1, description="roles whose messages are trained on (sft)"
    )
    seed: int = Field(default=0, description="seed of the order of rows")
    shuffle: bool = Field(
        default=True, description="draw rows in a new seeded order every pass; false keeps the file's order"
    )
    limit: Positive | None = Field(default=None, description="train on the first so many rows; all if absent")
    curriculum: Curriculum = Field(default_factory=Curriculum)


class ServedModel(Section):
    """A trained reward model, served by a process of its own."""

    path: str = Field(
        description="Hugging Face directory: a sequence classifier with one label (reward_model's export)"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: Positive = Field(default=8192, description="tokens of one forward pass, padding included")
    threads: Positive = Field(default=1, description="CPU threads")


class Reward(Section):
    """One part of the reward: one that the environment service hosts, a trained model, or another team's service."""

    name: str = Field(description="the reward's registered name; for a model any name")
    weight: float = Field(default=1.0, description="the total is the sum of weight x value")
    address: str | None = Field(
        default=None, description="HOST:PORT of a foreign RewardService; our own service if absent"
    )
    model: ServedModel | None = Field(default=None, description="score with this reward model instead")
    timeout_seconds: float = Field(default=30.0, gt=0, description="deadline of one Score call")


class Environment(Section):
    """Who plays the other side and who scores."""

    name: str = Field(description="registered environment; for multi_turn it drives the episode")
    multi_turn: bool = Field(
        default=False, description="drive episodes with Reset and Step instead of one prompt, one answer"
    )
    max_turns: Positive = Field(default=16, description="most model turns of an episode")
    rewards: tuple[Reward, ...] = Field(
        default=(), description="parts of the reward; empty means the reward of the same name"
    )
    address: str | None = Field(
        default=None, description="HOST:PORT of a foreign environment service; our own if absent"
    )
    replicas: Positive = Field(default=1, description="processes of our environment service")
    workers: Positive = Field(default=1, description="worker processes of each environment service")


class Sampling(Section):
    """How completions are drawn."""

    temperature: float = Field(default=1.0, ge=0, le=10)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, description="0 keeps every token")
    max_tokens: Positive = Field(default=256, description="most tokens of one completion")
    stop: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(
        default=(),
        max_length=16,
        description="texts that end a completion, beside the model's own stop token; the one written is part of it",
    )


class Kl(Section):
    """A pull towards the model the run started from (the reference), added to the loss."""

    coefficient: float = Field(default=0.0, ge=0, description="weight of the KL term; 0 keeps no reference in memory")
    place: Literal["loss", "reward"] = Field(
        default="loss", description="reward: take the summed k1 off each sample's reward instead (estimator is unused)"
    )
    estimator: Literal["k1", "k2", "k3"] = "k3"
    importance: Literal["none", "differentiable", "detached"] = Field(
        default="differentiable",
        description="how samples of older versions are weighted; differentiable k3 and detached k2 are unbiased",
    )


class Loss(Section):
    """The policy loss of grpo (docs/algorithms.md has formulas, sources and when to use which)."""

    name: str = Field(default="ppo_clip", description="ppo_clip, cispo, gspo, reinforce, sapo, dppo, dro")
    clip_low: float | None = Field(
        default=None, ge=0, description="ratio clip below 1; ppo_clip .2, gspo 3e-4 if absent"
    )
    clip_high: float | None = Field(
        default=None, ge=0, description="ratio clip above 1 (DAPO's clip-higher); ppo_clip .28, gspo 4e-4 if absent"
    )
    dual_clip: float | None = Field(
        default=None, gt=1, description="bound on the ratio for negative advantages; off if absent"
    )
    cap: float = Field(default=5.0, gt=0, description="cispo: the cap of the ratio itself")
    tau_positive: float = Field(default=1.0, gt=0, description="sapo: sharpness of the gate where the advantage is > 0")
    tau_negative: float = Field(default=1.05, gt=0, description="sapo: sharpness of the gate elsewhere")
    delta: float = Field(default=0.2, gt=0, description="dppo: how far a token's probability may move")
    tau: float = Field(default=1e-3, ge=0, description="dppo: weight of the squared log-ratio")
    beta: float | None = Field(default=None, gt=0, description="dro: pull towards the behaviour policy; required there")
    normalisation: Literal["token", "sequence", "prompt", "constant"] = "token"
    proximal: Literal["recompute", "behaviour", "interpolate"] = Field(
        default="recompute",
        description="policy the ratio is taken against; interpolate guesses it from versions, which saves a forward "
        "pass where mini_batches > 1",
    )
    correction: str = Field(
        default="tis",
        description="off-policy correction: none, tis, icepop, mis_token, mis_sequence, seq_mask_tis, opsm, m2po",
    )
    correction_cap: float = Field(default=2.0, gt=0, description="tis, seq_mask_tis: cap of the importance weight")
    correction_low: float | None = Field(
        default=None, ge=0, description="icepop, mis_*, seq_mask_tis: least ratio that is kept; .5 if absent"
    )
    correction_high: float | None = Field(
        default=None, gt=0, description="icepop (5 if absent), mis_*, seq_mask_tis (2): greatest ratio that is kept"
    )
    correction_limit: float | None = Field(
        default=None, gt=0, description="opsm: largest mean of g - c (1e-4 if absent); m2po: largest mean square (.04)"
    )
    mismatch_limit: float | None = Field(
        default=None,
        gt=1,
        description="leave a sample out whose tokens engine and learner find differently likely: mean of exp(|p - g|) "
        "above this (2, say); costs a forward pass; off if absent",
    )
    entropy_coefficient: float = Field(default=0.0, ge=0, description="weight of the entropy bonus")
    settings: dict[str, float] = Field(default_factory=dict, description="parameters of a loss of your own (plugins)")
    mini_batches: Positive = Field(default=1, description="optimizer steps a batch is cut into, by whole groups")
    kl: Kl = Field(default_factory=Kl)


class Preference(Section):
    """The preference loss of dpo, and how pairs are made of a group's scored answers."""

    source: Literal["rollouts", "dataset"] = Field(
        default="rollouts",
        description="rollouts: online, from the policy's own scored samples; dataset: offline, from ranked answers",
    )
    loss: str = Field(default="sigmoid", description="sigmoid, robust, hinge, ipo, length_normalised, simpo, orpo, kto")
    beta: float = Field(default=0.1, gt=0, description="strength of the pull towards the reference")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="share of labels that are wrong: sigmoid (then cDPO) and robust"
    )
    margin: float = Field(default=0.5, ge=0, description="simpo: target margin")
    nll_coefficient: float = Field(default=0.0, ge=0, description="weight of the chosen answer's likelihood (RPO)")
    pairs_per_group: Positive = Field(default=1, description="pairs of a group: best with worst, second with ...")
    min_margin: float = Field(
        default=0.0, ge=0, description="a pair's rewards must differ by more; groups without a pair are filtered"
    )
    importance_cap: float | None = Field(
        default=None,
        gt=0,
        description="rollouts: weigh a pair by how much likelier its answers are now than when they were drawn, at "
        "most this; unweighted if absent",
    )


class RewardModelLoss(Section):
    """The loss of reward_model: Bradley-Terry over a row's ranked answers."""

    margin: float = Field(default=0.0, ge=0, description="by how much the better answer's score should be larger")
    centring: float = Field(
        default=0.0, ge=0, description="pull of the mean score towards 0, which changes no order; .01 is usual"
    )
    min_margin: float = Field(
        default=0.0, ge=0, description="two answers are a pair if the data's scores differ by more than this"
    )


class Critic(Section):
    """PPO's critic (`advantage: gae`): a second model on the learner's ranks."""

    path: str | None = Field(
        default=None, description="directory it starts from, a reward model's or another; model.path if absent"
    )
    learning_rate: float = Field(default=1e-5, gt=0, description="its own; schedule and the rest are the optimizer's")
    discount: float = Field(default=1.0, gt=0, le=1, description="gamma: what a reward is worth a token earlier")
    decay: Fraction = Field(default=1.0, description="lambda: 1 waits for the reward, 0 believes the next value")
    clip: float = Field(default=0.2, ge=0, description="how far a value may move in a step; 0 is off")
    warmup_steps: int = Field(default=0, ge=0, description="steps at the start that train the critic alone")


class Filters(Section):
    """Whole groups that are complete but carry no signal (their slot is given back at once), and truncated answers."""

    zero_variance: bool = Field(default=False, description="drop groups whose members all have the same reward")
    pass_rate_min: Fraction = Field(default=0.0, description="drop groups whose mean reward is lower")
    pass_rate_max: Fraction = Field(default=1.0, description="drop groups whose mean reward is higher")
    truncated: bool = Field(
        default=False,
        description="leave truncated answers out: not trained, and without a vote in the baseline (overlong filtering)",
    )
    own: tuple[str, ...] = Field(default=(), description="filters of your own (plugins), by name")


class Algorithm(Section):
    """What is optimised, and the shape of a step."""

    name: Literal["grpo", "dpo", "sft", "reward_model"] = Field(
        default="grpo",
        description="grpo and its family, dpo and its family (offline and online), supervised, or a reward model",
    )
    steps: Positive = Field(description="optimizer steps of the run")
    groups_per_step: Positive = Field(default=32, description="groups (prompts) in a batch")
    group_size: Positive = Field(default=8, description="samples per group")
    min_group_fraction: float = Field(
        default=0.5, gt=0, le=1, description="a group with fewer completed members has FAILED"
    )
    advantage: str = Field(
        default="batch_norm",
        description="grpo, dr_grpo, rloo, reinforce_pp, batch_norm, maxrl, gdpo; opd with a teacher, gae with a critic",
    )
    advantage_settings: dict[str, float] = Field(
        default_factory=dict, description="parameters of an advantage of your own (plugins)"
    )
    reward_scale: float = Field(default=1.0, gt=0, description="factor of every reward before advantages")
    overlong_buffer: int = Field(
        default=0,
        ge=0,
        description="tokens before sampling.max_tokens from which an answer's reward falls, to -1 at the end (DAPO)",
    )
    truncated_scale: Fraction = Field(
        default=1.0, description="factor of the reward, where positive, of an answer that was cut off (stop properly)"
    )
    advantage_clip: float | None = Field(default=None, gt=0, description="largest absolute advantage; off if absent")
    loss: Loss = Field(default_factory=Loss)
    preference: Preference = Field(default_factory=Preference)
    reward_model: RewardModelLoss = Field(default_factory=RewardModelLoss)
    critic: Critic = Field(default_factory=Critic)
    filters: Filters = Field(default_factory=Filters)


class Source(Section):
    """Further tasks, drawn beside those of `data` and `environment`; what it leaves out is as the recipe's own."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,63}$", description="unique; metrics and samples carry it")
    weight: float = Field(default=1.0, gt=0, description="share of groups, beside 1 for data and environment")
    data: Data
    environment: Environment
    group_size: Positive | None = None
    max_tokens: Positive | None = Field(default=None, description="most tokens of one completion")
    advantage: str | None = Field(default=None, description="as algorithm.advantage, over this source's groups alone")
    advantage_clip: float | None = Field(default=None, gt=0, description="as algorithm.advantage_clip")
    reward_scale: float | None = Field(default=None, gt=0, description="as algorithm.reward_scale")
    overlong_buffer: int | None = Field(default=None, ge=0, description="as algorithm.overlong_buffer")
    truncated_scale: Fraction | None = Field(default=None, description="as algorithm.truncated_scale")
    filters: Filters | None = Field(default=None, description="as algorithm.filters")


class Staleness(Section):
    """How far generation may run ahead of training."""

    max_versions: int = Field(default=2, ge=0, description="0 is synchronous on-policy")
    allow_uncorrected: bool = Field(
        default=False, description="permit an asynchronous run with neither correction nor clip"
    )


class Evaluation(Section):
    """Held-out measurement during training, pinned to a version: of `data.eval`, which the environment's tasks are made
    of, or, where training reads rows and there is no environment, on which the learner measures its loss."""

    every: int = Field(
        default=0, ge=0, description="steps between evaluations; 0 evaluates at the start and the end only"
    )
    tasks: Positive = Field(default=128, description="rows of data.eval to use")
    samples_per_task: Positive = 1
    temperature: float = Field(default=1.0, ge=0, le=10)
    solved_reward: float = Field(default=1.0, description="reward from which a sample is solved (pass@k, cons@k)")
    reward: str | None = Field(
        default=None,
        description="measure this part of the reward alone, whatever its weight; the weighted total if absent",
    )
    target_reward: float | None = Field(
        default=None, description="stop the run when an evaluation's mean reward reaches this; never if absent"
    )
    target_loss: float | None = Field(
        default=None, description="stop the run when the held-out loss falls to this; never if absent"
    )


class Parallel(Section):
    """How the model is split over ranks. Data parallelism is what remains: ranks / (tensor x pipeline x context)."""

    tensor: Positive = 1
    pipeline: Positive = 1
    context: Positive = 1
    sequence_parallel: bool = False
    virtual_stages: Positive = Field(
        default=1, description="chunks of layers per pipeline stage; above 1 stages interleave and idle less"
    )
    expert: Positive = Field(
        default=1,
        description="ranks that share out a mixture's experts; the same ranks are tensor, context and data ranks too",
    )
    context_attention: Literal["gather", "ulysses"] = Field(
        default="gather",
        description="what context ranks exchange for attention: keys and values, or (ulysses) shares of the heads",
    )
    overlap: bool = Field(
        default=False,
        description="data ranks exchange gradients while the backward pass goes on, and weights while the next forward "
        "pass does; else each at once, in between",
    )
    overlap_bucket: Positive = Field(
        default=40_000_000,
        description="with overlap: numbers in one message; large enough for the network, small enough to begin early",
    )


class Optimizer(Section):
    """AdamW or Muon, and the schedule."""

    name: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="muon steps hidden matrices by their momentum made orthogonal; embeddings, output layer, norms and "
        "biases are AdamW's then too",
    )
    momentum: float = Field(default=0.95, ge=0, lt=1, description="Muon's (Nesterov)")
    rate_adjustment: Literal["match_rms_adamw", "original"] = Field(
        default="match_rms_adamw",
        description="Muon's steps: as large as AdamW's, so that its rates carry over (0.2 x sqrt of the longer side), "
        "or Jordan's (sqrt of rows / columns, at least 1)",
    )
    learning_rate: float = Field(default=1e-6, gt=0)
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "constant"
    warmup_steps: int = Field(default=0, ge=0, description="steps in which the rate rises to learning_rate")
    decay_steps: Positive | None = Field(
        default=None, description="wsd: steps at the end in which the rate falls; a fifth of algorithm.steps if absent"
    )
    final_ratio: Fraction = Field(default=0.0, description="where the rate falls: what is left of it at the last step")
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    clip_gradient: float = Field(default=1.0, ge=0, description="norm the gradient is clipped to; 0 is off")
    max_skipped: Positive = Field(
        default=10, description="steps in a row skipped for a gradient that is not finite, after which the run ends"
    )


class Checkpoints(Section):
    """When the learner's state is saved."""

    every: Positive = Field(default=20, description="steps between checkpoints")
    keep: Positive = Field(default=2, description="newest checkpoints kept")
    keep_best: int = Field(default=0, ge=0, description="further checkpoints kept: those with the best metric")
    metric: str = Field(
        default="rl.reward.mean", description="metric of the steps, averaged since the checkpoint before"
    )
    better: Literal["larger", "smaller"] = Field(default="larger", description="which value of the metric is better")
    background: bool = Field(
        default=True, description="write beside the training (costs a second copy of the state); else the step waits"
    )


class Lora(Section):
    """Low-rank adapters on a frozen model; what is exported has them merged."""

    rank: Positive = 16
    alpha: float = Field(default=32.0, gt=0, description="the change is alpha / rank x B A")
    targets: tuple[Literal["qkv", "output", "gate_up", "down"], ...] = Field(
        default=("qkv", "output", "gate_up", "down"), min_length=1, description="the linear layers that get one"
    )
    publish: Literal["merged", "adapters"] = Field(
        default="merged",
        description="what weight_sync gets of a version: the whole model, or the adapters alone, which each engine "
        "merges into the model of model.path that it started from",
    )


class Learner(Section):
    """The training side."""

    backend: Literal["megatron", "transformers"] = Field(
        default="megatron",
        description="what trains the model: Megatron-Core (every parallel size below), or any causal language model of "
        "Hugging Face transformers, fully sharded over data ranks, and cut over tensor ranks if it has a plan for it",
    )
    ranks: Positive = Field(default=1, description="processes of the torchrun job")
    parallel: Parallel = Field(default_factory=Parallel)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    checkpoints: Checkpoints = Field(default_factory=Checkpoints)
    lora: Lora | None = Field(default=None, description="train adapters only; every weight is trained if absent")
    micro_batch_tokens: Positive = Field(default=8192, description="token budget of one packed micro-batch")
    recompute: Literal["none", "selective", "full"] = Field(
        default="none",
        description="selective runs what is cheap (norms, activation functions) again in the backward pass; full keeps "
        "each layer's input alone and runs all of it again",
    )
    offload: tuple[Literal["optimizer", "reference"], ...] = Field(
        default=(),
        description="what is kept on the host instead of the device: moments and fp32 main weights, which visit the "
        "device slice by slice in each step; the initial weights that a method compares with",
    )
    device_gib: float | None = Field(
        default=None, gt=0, description="memory of one rank's device; a recipe that needs more is refused"
    )
    threads: Positive = Field(default=1, description="CPU threads per rank")
    hung_seconds: float = Field(
        default=60.0, gt=0, description="a rank without a sign of life for so long is ended, and the group with it"
    )
    collective_minutes: Positive = Field(
        default=5, description="longest wait of a rank for the others; then the group ends and is started again"
    )
    seed: int = 0


class Generation(Section):
    """The vLLM side."""

    replicas: Positive = 1
    max_running: Positive = Field(default=256, description="most sequences in one engine batch")
    max_context: Positive = Field(default=2048, description="most tokens of prompt and completion together")
    memory_gib: float = Field(default=1.0, gt=0, description="KV cache on CPU, in GiB")
    gpu_memory_fraction: Fraction = 0.9
    tensor: Positive = Field(default=1, description="tensor parallel size of one replica")
    kv_on_update: Literal["keep", "recompute"] = Field(
        default="recompute", description="running requests' KV after an update"
    )
    chunk_tokens: Positive = Field(default=16, description="tokens of a request gathered before they are streamed")
    compile: bool = Field(default=False, description="compile the model (slower start, faster steps; for GPUs)")
    threads: Positive = Field(default=1, description="CPU threads of the engine")


class Teacher(Section):
    """The model that on-policy distillation learns from (`algorithm.advantage: opd`)."""

    path: str = Field(description="Hugging Face model directory, with the policy's vocabulary")
    top: int = Field(
        default=0,
        ge=0,
        le=64,
        description="0: the drawn token's log-prob is its advantage (policy gradient); k: the divergence from the "
        "teacher's k likeliest tokens of every position is the loss",
    )
    divergence: Literal["reverse", "forward"] = Field(
        default="reverse", description="with top: KL(policy, teacher), which seeks its modes, or KL(teacher, policy)"
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    replicas: Positive = 1
    memory_gib: float = Field(default=1.0, gt=0, description="KV cache on CPU, in GiB")
    gpu_memory_fraction: Fraction = 0.9
    tensor: Positive = Field(default=1, description="tensor parallel size of one replica")
    threads: Positive = Field(default=1, description="CPU threads of the engine")


class Rollout(Section):
    """The episode drivers."""

    workers: Positive = 1
    groups_per_worker: Positive = Field(default=64, description="groups one worker drives at the same time")
    attempts: Positive = Field(default=4, description="generation attempts of one turn before the sample has FAILED")
    deliveries: Positive = Field(
        default=5, description="deliveries of one task before its group is left to its deadline"
    )
    generation_timeout_seconds: float = Field(default=300.0, gt=0, description="deadline of one Generate call")


class Limits(Section):
    """Bounds that keep a run from filling a machine."""

    log_bytes: Positive = Field(
        default=4 * 2**30, description="size of the trajectory log; a full log pauses generation"
    )
    keep_log: bool = Field(
        default=True, description="keep the whole log for replay instead of trimming behind checkpoints"
    )
    group_deadline_seconds: float = Field(
        default=600.0, gt=0, description="age at which a group is closed with what it has"
    )
    stall_seconds: float = Field(
        default=120.0, gt=0, description="time without progress after which a stall is reported"
    )


class WeightSync(Section):
    """The version store."""

    keep_versions: Positive = Field(default=4, description="READY versions kept; older ones are retired")


class Alert(Section):
    """Marks the run when a metric of metrics.jsonl stays beyond a limit."""

    metric: str = Field(description="name as in metrics.jsonl")
    above: float | None = Field(default=None, description="raised where the metric is greater")
    below: float | None = Field(default=None, description="raised where the metric is less")
    steps: Positive = Field(default=3, description="steps in a row that it must be beyond the limit")


ALERTS = (
    Alert(metric="rl.policy.mismatch_kl", above=0.1),
    Alert(metric="rl.policy.ess_share", below=0.3),
    Alert(metric="rl.policy.masked_share", above=0.5),
    Alert(metric="rl.policy.clip_share", above=0.5),
    Alert(metric="rl.policy.entropy", below=1e-3, steps=10),
    Alert(metric="rl.completion.truncated", above=0.5, steps=10),
)


class Telemetry(Section):
    """What is recorded, and where it goes besides the run directory."""

    trace_fraction: Fraction = Field(default=0.05, description="share of samples whose spans are recorded")
    alerts: tuple[Alert, ...] = Field(default=ALERTS, description="limits whose passing marks the run")
    tensorboard: bool = True
    wandb_project: str | None = Field(
        default=None, description="Weights & Biases project (needs wandb installed and configured)"
    )
    mlflow_experiment: str | None = Field(
        default=None, description="MLflow experiment (needs mlflow installed and configured)"
    )
