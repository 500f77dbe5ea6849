"""The shapes of a model, from its Hugging Face config.json: enough to count numbers, not to run it."""

import json
import pathlib
from dataclasses import dataclass

MEGATRON = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
"""Architectures that the learner's Megatron backend trains; Qwen2.5 calls itself Qwen2ForCausalLM."""


@dataclass(frozen=True)
class Shapes:
    """A Llama-like model, named as in Hugging Face's config; `qk_norm` and `qkv_bias` follow from the architecture.

    experts, experts_per_token, expert_intermediate: of a mixture, which takes the MLP's place; 0 in a dense model.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    qk_norm: bool
    qkv_bias: bool
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0

    @property
    def parameters(self) -> int:
        """Numbers in the whole model."""
        head = 0 if self.tied else self.vocabulary * self.hidden
        return self.vocabulary * self.hidden + head + self.layers * self.layer_parameters() + self.hidden

    @property
    def route_bytes(self) -> int:
        """Of a token's row of routes, as trajectory.proto has it; 0 in a dense model."""
        return self.layers * self.experts_per_token * (1 if self.experts <= 255 else 2)

    def layer_parameters(self, tensor: int = 1, expert: int = 1) -> int:
        """Numbers of one layer on one of `tensor` and `expert` ranks: matrices are shared out, norms are not."""
        return self.layer_without_experts(tensor) + self.layer_experts(expert)

    def layer_experts(self, expert: int = 1) -> int:
        """Numbers of the experts of one layer on one of `expert` ranks; 0 in a dense model."""
        return 3 * self.hidden * self.expert_intermediate * self.experts // expert

    def layer_without_experts(self, tensor: int = 1) -> int:
        """Numbers of the rest of the layer on one of `tensor` ranks, with the whole router."""
        bias = (self.heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        return self.layer_matrices(tensor) + bias // tensor + norms

    def layer_matrices(self, tensor: int = 1) -> int:
        """Of these, the numbers in matrices."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (queries + 2 * keys) + queries * self.hidden
        mlp = 0 if self.experts else 3 * self.hidden * self.intermediate
        return (attention + mlp) // tensor + self.hidden * self.experts

    def vocabulary_parameters(self, tensor: int) -> int:
        """Numbers of the embedding, or of the output layer, on one of `tensor` ranks (rows padded to a multiple)."""
        return -(-self.vocabulary // tensor) * self.hidden

    def shares_heads(self, tensor: int, context: int) -> bool:
        """Whether `context` ranks can share out the query heads that one of `tensor` ranks has."""
        return self.heads // tensor % context == 0

    def indivisible(self, tensor: int, pipeline: int, virtual: int = 1) -> list[str]:
        """What a layout does not divide, as sentences that name the recipe's key; empty if it can be built."""
        wanted = [
            ("tensor", tensor, "num_attention_heads", self.heads),
            ("pipeline", pipeline, "num_hidden_layers", self.layers),
        ]
        if not self.experts:
            wanted.append(("tensor", tensor, "intermediate_size", self.intermediate))
        found = [
            f"learner.parallel.{key}: {value} does not divide the model's {field}, {size}"
            for key, value, field, size in wanted
            if size % value
        ]
        if virtual > 1 and self.layers % (pipeline * virtual):
            found.append(
                f"learner.parallel.virtual_stages: {virtual} chunks on each of {pipeline} stages do not divide the "
                f"model's num_hidden_layers, {self.layers}"
            )
        if self.kv_heads % tensor and tensor % self.kv_heads:
            found.append(
                f"learner.parallel.tensor: {tensor} neither divides the model's num_key_value_heads, {self.kv_heads}, "
                "nor is a multiple of it"
            )
        return found


def architecture(model_dir: str | pathlib.Path) -> str | None:
    """The first of config.json's `architectures`; None where there is none to be read."""
    try:
        names = json.loads((pathlib.Path(model_dir) / "config.json").read_text()).get("architectures")
        return str(names[0])
    except (OSError, ValueError, TypeError, AttributeError, IndexError):
        return None


def mixture_of(model_dir: str | pathlib.Path) -> int:
    """How many experts a layer of a model directory has, by whatever name its config.json says it; 0 where it is dense
    or cannot be read."""
    try:
        raw = json.loads((pathlib.Path(model_dir) / "config.json").read_text())
        return max(int(raw.get(key) or 0) for key in ("num_experts", "num_local_experts", "n_routed_experts"))
    except (OSError, ValueError, TypeError, AttributeError):
        return 0


def read_shapes(model_dir: str | pathlib.Path) -> Shapes | None:
    """Shapes of a model directory; None where config.json is absent, unreadable or of another kind of model."""
    try:
        raw = json.loads((pathlib.Path(model_dir) / "config.json").read_text())
        family = str((raw.get("architectures") or [""])[0])
        heads = raw["num_attention_heads"]
        experts = raw.get("num_experts", raw.get("num_local_experts")) or 0
        return Shapes(
            hidden=raw["hidden_size"],
            intermediate=raw["intermediate_size"],
            layers=raw["num_hidden_layers"],
            heads=heads,
            kv_heads=raw.get("num_key_value_heads") or heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
            vocabulary=raw["vocab_size"],
            tied=bool(raw.get("tie_word_embeddings", False)),
            qk_norm=family.startswith("Qwen3"),
            qkv_bias=family.startswith("Qwen2"),
            experts=experts,
            experts_per_token=raw["num_experts_per_tok"] if experts else 0,
            expert_intermediate=raw["moe_intermediate_size"] if experts else 0,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
