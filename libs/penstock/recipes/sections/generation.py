"""`sampling`, `generation`, `teacher`: the engines, and how they draw completions."""

from typing import Annotated, Literal

from pydantic import Field

from penstock.recipes.sections.base import Fraction, Positive, Section


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
