"""Reads a Hugging Face model directory's config.json strictly: what Penstock trains, or a clear refusal.

A field that would change the model's arithmetic and that the Megatron model here does not implement is refused by name;
silently ignoring it would train another model than the one that generates. No transformers import: it costs seconds at
start, and its defaults change between versions.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.learner.interface.errors import UnsupportedModel


@dataclass(frozen=True)
class _Architecture:
    qkv_bias: bool
    qk_norm: bool
    experts: bool = False


_FAMILIES = {
    "Llama": _Architecture(qkv_bias=False, qk_norm=False),
    "Qwen2": _Architecture(qkv_bias=True, qk_norm=False),
    "Qwen3": _Architecture(qkv_bias=False, qk_norm=True),
    "Qwen3Moe": _Architecture(qkv_bias=False, qk_norm=True, experts=True),
}
_TOKENS, _SCORE = "ForCausalLM", "ForSequenceClassification"
ARCHITECTURES = {family + _TOKENS: known for family, known in _FAMILIES.items()}
"""Architectures with a weight mapping; Qwen2.5 calls itself Qwen2ForCausalLM."""
SCORING = {family + _SCORE: known for family, known in _FAMILIES.items() if not known.experts}
"""The same with a score (one label) in place of the vocabulary: reward models."""
OTHERWISE = "learner.backend=transformers trains what transformers loads"
"""The way out for a model that Megatron does not get here."""


@dataclass(frozen=True)
class Experts:
    """A mixture in the place of every layer's MLP.

    Attributes:
      number, per_token: experts of a layer, and how many a token is sent to.
      intermediate_size: of one expert.
      normalised: whether a token's weights of its experts are made to add up to one.
    """

    number: int
    per_token: int
    intermediate_size: int
    normalised: bool


@dataclass(frozen=True)
class ModelConfig:
    """The numbers that define the model; names as in Hugging Face. `rope_factor` is None without llama3 scaling,
    `experts` for a dense model.

    `tied_embeddings` says whether the head is the embedding, and so is false for a model that scores.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_epsilon: float
    tied_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    rope_base: float
    rope_factor: float | None
    experts: Experts | None = None

    @property
    def attention_share(self) -> float:
        """Work of a sequence of n tokens is n + attention_share · n² of what a layer's matrices cost a token: 4 A per
        pair of tokens (half of all pairs are causal) against 2 P per token, A the query width, P the matrices."""
        h, queries, keys = self.hidden_size, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        width = self.intermediate_size
        if self.experts is not None:
            width = self.experts.per_token * self.experts.intermediate_size
        return queries / (h * (2 * queries + 2 * keys) + 3 * h * width)

    @property
    def scores(self) -> bool:
        """Whether the head is a score, one number per position, in place of a distribution over the vocabulary."""
        return self.architecture in SCORING


def read_config(model_dir: str | Path, *, scores: bool = False) -> ModelConfig:
    """ModelConfig of a local Hugging Face directory. Raises UnsupportedModel.

    scores: as a model that scores: a reward model's directory, or a language model's, whose head is left behind.
    """
    path = Path(model_dir) / "config.json"
    if not path.is_file():
        raise UnsupportedModel(f"{model_dir} is not a Hugging Face model directory: there is no config.json in it")
    try:
        raw = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UnsupportedModel(f"{path} is not valid JSON: {error}") from error
    given = (raw.get("architectures") or ["(none)"])[0]
    known = _architecture(given, raw, path, scores)
    architecture = given.replace(_TOKENS, _SCORE) if scores else given
    _refuse_what_is_not_implemented(raw, known, path)
    base, scale = _rope(raw, path)
    try:
        return ModelConfig(
            architecture=architecture,
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=raw["num_attention_heads"],
            num_kv_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
            head_dim=raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"],
            max_positions=raw["max_position_embeddings"],
            norm_epsilon=raw["rms_norm_eps"],
            tied_embeddings=raw.get("tie_word_embeddings", False) and not scores,
            qkv_bias=known.qkv_bias,
            qk_norm=known.qk_norm,
            rope_base=base,
            rope_factor=scale,
            experts=_experts(raw) if known.experts else None,
        )
    except KeyError as error:
        raise UnsupportedModel(f"{path} has no field {error}") from error


def _architecture(given: str, raw: dict[str, Any], path: Path, scores: bool) -> _Architecture:
    if given in ARCHITECTURES:
        if scores and ARCHITECTURES[given].experts:
            raise UnsupportedModel(f"{path}: {given} cannot be made a reward model; known: {', '.join(SCORING)}")
        return ARCHITECTURES[given]
    if given not in SCORING:
        raise UnsupportedModel(
            f"{path}: architecture {given} is not supported by learner.backend megatron; known: "
            f"{', '.join(ARCHITECTURES)}; {OTHERWISE}"
        )
    if not scores:
        raise UnsupportedModel(f"{path}: {given} is a reward model: it scores answers and cannot draw tokens")
    labels = len(raw.get("id2label") or (0, 1))  # a config without labels means two of them
    if labels != 1:
        raise UnsupportedModel(f"{path}: a reward model has 1 label, this classifier has {labels}")
    return SCORING[given]


def _refuse_what_is_not_implemented(raw: dict[str, Any], known: _Architecture, path: Path) -> None:
    only: dict[str, tuple[Any, ...]] = {
        "hidden_act": ("silu", None),
        "use_sliding_window": (False, None),
        "mlp_bias": (False, None),
        "attention_bias": (known.qkv_bias, None),
        "partial_rotary_factor": (1.0, None),
        "quantization_config": (None,),
        "decoder_sparse_step": (1, None),  # every layer has experts …
        "mlp_only_layers": ([], None),  # … without exception
    }
    for field, allowed in only.items():
        if raw.get(field) not in allowed:
            raise UnsupportedModel(f"{path}: {field}={raw[field]!r} is not supported, only {allowed[0]!r}; {OTHERWISE}")


def _experts(raw: dict[str, Any]) -> Experts:
    if raw["num_experts_per_tok"] < 2:
        raise UnsupportedModel(f"num_experts_per_tok={raw['num_experts_per_tok']} is not supported, only 2 and more")
    return Experts(
        number=raw["num_local_experts"] if "num_experts" not in raw else raw["num_experts"],  # transformers 5, 4
        per_token=raw["num_experts_per_tok"],
        intermediate_size=raw["moe_intermediate_size"],
        normalised=raw.get("norm_topk_prob", False),
    )


def _rope(raw: dict[str, Any], path: Path) -> tuple[float, float | None]:
    """(base, llama3 factor or None), from transformers 5's rope_parameters or 4's rope_theta and rope_scaling."""
    rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    base = rope.get("rope_theta", raw.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return base, None
    fixed = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    if kind != "llama3" or any(rope.get(k, v) != v for k, v in fixed.items()):
        raise UnsupportedModel(
            f"{path}: rope scaling {rope} is not supported; known: default, llama3 with {fixed}; {OTHERWISE}"
        )
    return base, float(rope["factor"])


def as_scoring(raw: dict[str, Any], architecture: str, padding: int | None) -> dict[str, Any]:
    """The config.json of a reward model that grew from a model with the config `raw`.

    architecture: its class in transformers, which is not in every family named after the one that writes.
    padding: a token that no answer ends with, or None. transformers takes the score at the last token that is not
    padding; where padding is the end-of-turn token it would read one token too early, and silently.
    """
    ends = raw.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    return {
        **raw,
        "architectures": [architecture],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "pad_token_id": None if padding in ends else padding,
        "tie_word_embeddings": False,
    }
