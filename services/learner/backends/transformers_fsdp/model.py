"""Loads a Hugging Face model for packed training, and refuses one that would compute something else than transformers.

Which architectures work is not a list: it is tried. Rank 0 loads the model, gives it a small pack, and compares with
each sequence alone:

    hidden states of the pack   = those of the sequences alone      else the next way of attending is tried
    logits                      = output layer × hidden states      else refused: the head is computed in chunks
    log-probs, matrices cut     = those of the whole model          else refused: the plan is not all that is to it

Ways of attending, in order: our own bucketed attention over the pack (costs what the sequences cost), then those of
transformers with a mask that it makes from positions (cost the square of the pack).
"""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from services.learner.backends.packing.attention import attend_pack
from services.learner.backends.packing.packs import Pack, describe_pack
from services.learner.huggingface.config import UnsupportedModel
from services.learner.huggingface.safetensors_directory import SafetensorsDirectory
from services.learner.interface.batch import Batch, Sample

log = logging.getLogger(__name__)

OURS = "penstock_packed"
WAYS = (OURS, "sdpa", "eager")
CLOSE = 1e-3
"""Largest difference, relative to the largest value, that another order of fp32 summation may make in deep models."""
SCORE = "score.weight"
CUT_CLOSE = 0.1
"""Largest difference of log-probs that bf16 weights may make; a model cut wrongly is off by whole numbers."""


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


def _class(scores: bool) -> Any:
    return AutoModelForSequenceClassification if scores else AutoModelForCausalLM


def skeleton(config: Any, way: str, scores: bool = False) -> Any:
    """The model without memory (meta tensors). Raises UnsupportedModel if transformers has no such language model."""
    try:
        with torch.device("meta"):
            return _class(scores).from_config(config, dtype=torch.float32, attn_implementation=way).eval()
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


def load_and_try(model_dir: str | Path, config: Any, scores: bool = False) -> tuple[Any, str]:
    """The whole model in fp32 on this process's CPU, and the first of WAYS that packs right. A score that the directory
    lacks is zero: every answer starts equal.

    Raises UnsupportedModel.
    """
    try:
        model, report = _class(scores).from_pretrained(
            model_dir,
            config=copy.deepcopy(config),
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedModel(f"{model_dir}: transformers cannot load it: {error}") from error
    stored = SafetensorsDirectory(model_dir).names
    if scores and SCORE not in stored:
        torch.nn.init.zeros_(head_of(model).weight)
        stored = {*stored, SCORE}
        report["missing_keys"] = set(report["missing_keys"]) - {SCORE}
    for problem in ("missing_keys", "mismatched_keys"):
        if report[problem]:
            raise UnsupportedModel(f"{model_dir}: {problem.replace('_', ' ')}: {', '.join(map(str, report[problem]))}")
    model.eval()
    _check_names(model, stored)
    if not scores:
        _check_head(model)
    return model, _choose(model)


def _check_names(model: Any, stored: set[str]) -> None:
    """What is exported has the model's own names; where transformers renames or joins tensors on the way in (experts),
    no reader of the directory would know them."""
    without = len(model.base_model_prefix) + 1
    renamed = [n for n, _ in model.named_parameters() if n not in stored and n[without:] not in stored]
    if renamed:
        raise UnsupportedModel(
            f"{type(model).__name__}: transformers keeps {', '.join(renamed[:2])} … ({len(renamed)} tensors) under "
            "names that the directory does not have, so what is trained could not be exported"
        )


@torch.no_grad()
def _check_head(model: Any) -> None:
    """Logits must be the output layer times the hidden states, and nothing else: hidden states of a size that no
    scaling, capping or bias leaves alone are put in the place of the model's."""
    head = model.get_output_embeddings()
    large = torch.linspace(-300.0, 300.0, head.weight.shape[1])[None, None]

    def replace(module: Any, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = large
        return output

    handle = model.base_model.register_forward_hook(replace)
    try:
        logits = model(input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=False).logits
    finally:
        handle.remove()
    if not _close(logits, large @ head.weight.t()):
        raise UnsupportedModel(
            f"{type(model).__name__}: its logits are not its output layer times its hidden states (they are scaled, "
            "capped or have a bias), which the learner's chunked output layer does not compute"
        )


LENGTHS = [5, 2, 5, 9]
"""Of the sequences that a model is tried on."""


def _sequences(model: Any) -> Tensor:
    """int64 [1, sum(LENGTHS)]."""
    return torch.arange(sum(LENGTHS))[None] * 7919 % vocabulary_of(model)


@torch.no_grad()
def said_of_sequences(model: Any | None) -> Tensor:
    """fp32 [sum(LENGTHS)], on every rank: what rank 0's whole model says of every token but the first of each sequence
    (0 there), its log-prob or the score before it; a collective."""
    said = torch.zeros(sum(LENGTHS))
    if model is not None:
        model.set_attn_implementation("eager")
        parts = []
        for tokens in _sequences(model).split(LENGTHS, 1):
            said_of_all = head_of(model)(model.base_model(input_ids=tokens, use_cache=False).last_hidden_state)[0, :-1]
            if model.get_output_embeddings() is not None:
                said_of_all = said_of_all.log_softmax(-1).gather(-1, tokens[0, 1:, None])
            parts += [said.new_zeros(1), said_of_all[:, 0]]
        said = torch.cat(parts)
    told = [said]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def check_cut(model: Any, expected: Tensor, logprobs: Callable[[Batch], Tensor]) -> None:
    """Compares what a model whose matrices are cut says of the sequences (`logprobs` of a batch) with `expected`; a
    collective. Raises UnsupportedModel on every rank."""
    samples = [Sample(t[0].tolist(), [0] + [1] * (t.shape[1] - 1)) for t in _sequences(model).split(LENGTHS, 1)]
    got = logprobs(Batch.from_samples(samples).to(expected.device))
    if not bool((got - expected).abs().max() <= CUT_CLOSE):
        raise UnsupportedModel(
            f"{type(model).__name__}: cut over tensor ranks by its plan it computes something else; use "
            "parallel.tensor = 1"
        )


@torch.no_grad()
def _choose(model: Any) -> str:
    lengths, tokens = LENGTHS, _sequences(model)
    model.set_attn_implementation("eager")
    alone = [model.base_model(input_ids=part, use_cache=False).last_hidden_state for part in tokens.split(lengths, 1)]
    expected = torch.cat(alone, 1)
    reasons = []
    for way in WAYS:
        model.set_attn_implementation(way)
        try:
            packed = forward(model, tokens, positions_of(lengths), describe_pack(lengths, lengths, tokens.device))
        except (ValueError, KeyError, TypeError, NotImplementedError, RuntimeError) as error:
            reasons.append(f"{way}: {error}")
            continue
        if _close(packed, expected):
            log.info("%s attends with %s", type(model).__name__, way, extra={"others": "; ".join(reasons)})
            return way
        reasons.append(f"{way}: its sequences see each other")
    raise UnsupportedModel(f"{type(model).__name__} cannot be trained on packed sequences ({'; '.join(reasons)})")


def forward(model: Any, tokens: Tensor, positions: Tensor, pack: Pack) -> Tensor:
    """Final hidden states [1, t, h] of the sequences of a pack, tokens and positions [1, t]."""
    output = model.base_model(input_ids=tokens, position_ids=positions, use_cache=False, pack=pack)
    hidden: Tensor = output.last_hidden_state
    return hidden


def positions_of(lengths: list[int]) -> Tensor:
    """int64 [1, t]: 0 … n−1 for each sequence."""
    return torch.cat([torch.arange(n) for n in lengths])[None]


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= CLOSE * b.abs().max())


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


def together(work: Any) -> Any:
    """Rank 0's result of `work`; a failure of rank 0 (UnsupportedModel) is raised on every rank."""
    told: list[Any] = [None, None]
    result = None
    if dist.get_rank() == 0:
        try:
            result, told[0] = work()
        except UnsupportedModel as error:
            told[1] = str(error)
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise UnsupportedModel(told[1])
    return result, told[0]
