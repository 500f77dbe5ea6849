"""`learner`: the training side, its ranks, optimizer, checkpoints and adapters."""

from typing import Annotated, Literal

from pydantic import Field

from penstock.recipes.sections.base import Fraction, Positive, Section


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
    warmup_steps: int = Field(default=0, ge=0, description="steps of the run in which the rate rises to learning_rate")
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
    ranks: Positive = Field(default=1, description="processes that train, on all nodes together")
    nodes: Positive = Field(
        default=1, description="hosts that share out the ranks equally; they must share the folder of the run"
    )
    rejoin_seconds: float = Field(
        default=300.0, gt=0, description="of several nodes, one that is awaited for longer is said to be overdue"
    )
    devices: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, description="GPUs of each host, by index, one for each rank there; those that are free if absent"
    )
    parallel: Parallel = Field(default_factory=Parallel)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    checkpoints: Checkpoints = Field(default_factory=Checkpoints)
    lora: Lora | None = Field(default=None, description="train adapters only; every weight is trained if absent")
    micro_batch_tokens: Positive = Field(
        default=8192, description="token budget of one packed micro-batch; auto: as much as fits, see parallelism.md"
    )
    share_prefixes: bool = Field(
        default=True,
        description="what samples of a micro-batch begin with alike (the prompt of a group or a pair, a system "
        "message) is computed once; false computes every sample alone, to compare",
    )
    routing_replay: bool | None = Field(
        default=None,
        description="mixtures of experts: engines record which experts they sent each token to, and training sends it "
        "to the same; where absent, wherever it can be done",
    )
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
