"""A Hugging Face model as the learner uses it: configuration, skeleton, output layer, our attention over packs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from services.learner.backends.packing.attention import attend_pack
from services.learner.backends.packing.packs import Pack
from services.learner.interface.errors import UnsupportedModel

OURS = "penstock_packed"
SCORE = "score.weight"


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    pack: Pack | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: query [1, heads, t, d], key and value [1, kv heads, t, d] -> [1, t, heads, d]."""
    if pack is None:
        raise ValueError("the model does not hand the pack on to its attention")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend_pack(q, k, v, pack, scaling, sliding_window)[None], None


AttentionInterface.register(OURS, _attention)
transformers_logging.disable_progress_bar()  # the log is for lines


def read_config(model_dir: str | Path, scores: bool = False) -> Any:
    """transformers' configuration of a directory, without dropout: log-probabilities are reproducible. scores: of a
    model that scores (see Policy), whatever the directory's is.

    Raises UnsupportedModel.
    """
    try:
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedModel(f"{model_dir}: transformers cannot read its configuration: {error}") from error
    for name, value in config.to_dict().items():
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float):
            setattr(config, name, 0.0)
    config.use_cache = False
    if scores:
        config.num_labels = 1
    return config


def model_class(scores: bool) -> Any:
    """transformers' factory of models that score, or that write."""
    return AutoModelForSequenceClassification if scores else AutoModelForCausalLM


def skeleton(config: Any, way: str, scores: bool = False) -> Any:
    """The model without memory (meta tensors). Raises UnsupportedModel if transformers has no such language model."""
    try:
        with torch.device("meta"):
            return model_class(scores).from_config(config, dtype=torch.float32, attn_implementation=way).eval()
    except (ValueError, KeyError) as error:
        kind = "sequence classifier" if scores else "causal language model"
        raise UnsupportedModel(f"transformers has no {kind} of this configuration: {error}") from error


def head_of(model: Any) -> Any:
    """The layer behind the final hidden states: the output layer, or the score [1, h] of a model that scores.

    Raises UnsupportedModel for a model that scores by something else.
    """
    head = model.get_output_embeddings()
    if head is not None:
        return head
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear) or head.out_features != 1 or head.bias is not None:
        raise UnsupportedModel(f"{type(model).__name__} scores by something else than one linear layer named score")
    return head


def vocabulary_of(model: Any) -> int:
    """How many tokens the model knows."""
    size: int = model.get_input_embeddings().weight.shape[0]
    return size


def forward(model: Any, tokens: Tensor, positions: Tensor, pack: Pack) -> Tensor:
    """Final hidden states [1, t, h] of the sequences of a pack, tokens and positions [1, t]."""
    output = model.base_model(input_ids=tokens, position_ids=positions, use_cache=False, pack=pack)
    hidden: Tensor = output.last_hidden_state
    return hidden


def positions_of(lengths: list[int]) -> Tensor:
    """int64 [1, t]: 0 … n−1 for each sequence."""
    return torch.cat([torch.arange(n) for n in lengths])[None]


def hidden_matrices(model: Any) -> set[str]:
    """Names of the parameters that are matrices and neither an embedding's nor the head's."""
    ends = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)] + [head_of(model)]
    weights = {id(module.weight) for module in ends}
    return {name for name, p in model.named_parameters() if p.dim() == 2 and id(p) not in weights}


def layers_of(model: Any) -> list[Any]:
    """The blocks that transformers says must stay whole: its decoder layers."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def attention_share(model: Any) -> float:
    """As ModelConfig.attention_share, of a model whose layers have matrices of any form; 0 where it does not say what
    its layers are."""
    config, layers = model.config.get_text_config(), layers_of(model)
    matrices = sum(p.numel() for p in layers[0].parameters() if p.dim() == 2) if layers else 0
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads * size / matrices if matrices else 0.0
