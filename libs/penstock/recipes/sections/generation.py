"""`sampling`, `generation`, `teacher`: the engines, and how they draw completions."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from penstock.recipes.choices import DRAFTS
from penstock.recipes.sections.base import Fraction, Positive, Section, filled


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


class Speculative(Section):
    """Tokens drafted ahead, which the model then judges at once: the same distribution in fewer passes of it. Keys are
    named as in vLLM's `speculative_config`."""

    choosers: ClassVar[tuple[str, ...]] = ("method", "prompt_lookup_max")

    method: Literal["ngram", "suffix", "draft_model", "eagle3", "mtp"] = Field(
        default="ngram",
        description="ngram, suffix: from the request's own text, and suffix from earlier answers too; draft_model, "
        "eagle3: by a second, smaller model; mtp: by the model's own layers for it",
    )
    num_speculative_tokens: Positive | None = Field(
        default=None, description="most tokens drafted at once; ngram 4, suffix 24, draft_model and eagle3 3, mtp 1"
    )
    prompt_lookup_max: Positive | None = Field(
        default=None, description="ngram: longest text that is looked up; 5 if absent"
    )
    prompt_lookup_min: Positive | None = Field(
        default=None, description="ngram: shortest text that is looked up; prompt_lookup_max if absent"
    )
    suffix_decoding_max_tree_depth: Positive | None = Field(
        default=None, description="suffix: longest match and draft together; 24 if absent"
    )
    suffix_decoding_max_cached_requests: int | None = Field(
        default=None, ge=0, description="suffix: answers that are remembered; 10000 if absent"
    )
    suffix_decoding_max_spec_factor: float | None = Field(
        default=None, ge=0, description="suffix: longest draft as a multiple of the match; 1 if absent"
    )
    suffix_decoding_min_token_prob: Fraction | None = Field(
        default=None, description="suffix: least frequency of a token that is drafted; .1 if absent"
    )
    model: str | None = Field(
        default=None, description="draft_model, eagle3: Hugging Face model directory; required there"
    )
    draft_tensor_parallel_size: Positive | None = Field(
        default=None, description="draft_model, eagle3: 1 or generation.tensor; that of the model if absent"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_its_defaults(cls, given: Any) -> Any:
        """The method's own, where the recipe says nothing."""
        if not isinstance(given, Mapping) or given.get("method", "ngram") not in DRAFTS:
            return given
        method: str = given.get("method", "ngram")
        if method == "ngram" and given.get("prompt_lookup_min") is None:
            given = {**given, "prompt_lookup_min": given.get("prompt_lookup_max")}
        return filled(given, DRAFTS[method].parameters)

    @property
    def config(self) -> dict[str, Any]:
        """As vLLM takes it."""
        return self.model_dump(exclude_none=True)


class Generation(Section):
    """The vLLM side."""

    replicas: Positive = 1
    max_running: Positive = Field(default=256, description="most sequences in one engine batch")
    max_context: Positive = Field(default=2048, description="most tokens of prompt and completion together")
    memory_gib: float = Field(default=1.0, gt=0, description="KV cache on CPU, in GiB")
    gpu_memory_fraction: Fraction = 0.9
    tensor: Positive = Field(default=1, description="tensor parallel size of one replica")
    devices: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None,
        description="GPUs of the host, by index, `tensor` for each replica in turn; those that are free if absent",
    )
    kv_on_update: Literal["keep", "recompute"] = Field(
        default="recompute", description="running requests' KV after an update"
    )
    chunk_tokens: Positive = Field(
        default=16, description="tokens of a completion's first chunk; later ones double, up to 256"
    )
    compile: bool = Field(default=False, description="compile the model (slower start, faster steps; for GPUs)")
    threads: Positive = Field(default=1, description="CPU threads of the engine")
    speculative: Speculative | None = Field(default=None, description="absent: no token is drafted ahead")


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
