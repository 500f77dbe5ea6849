"""Which architectures can be trained is not a list: it is tried. Rank 0 loads the model, gives it a small pack, and
compares with each sequence alone:

    hidden states of the pack   = those of the sequences alone      else the next way of attending is tried
    … of a pack that is a tree  = those of the sequences alone      else no two samples share what they begin with
    logits                      = output layer × hidden states      else refused: the head is computed in chunks
    log-probs, matrices cut     = those of the whole model          else refused: the plan is not all that is to it

Ways of attending, in order: our own bucketed attention over the pack (costs what the sequences cost), then those of
transformers with a mask that it makes from positions (cost the square of the pack, and take no tree).
"""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from services.learner.backends.packing.packs import describe_pack
from services.learner.backends.transformers_fsdp.model import (
    OURS,
    SCORE,
    forward,
    head_of,
    model_class,
    positions_of,
    vocabulary_of,
)
from services.learner.huggingface.safetensors_directory import SafetensorsDirectory
from services.learner.huggingface.tied import check_tied
from services.learner.interface.batch import Batch, TrainingSample
from services.learner.interface.errors import UnsupportedModel
from services.learner.interface.telling import told

log = logging.getLogger(__name__)

WAYS = (OURS, "sdpa", "eager")
CLOSE = 1e-3
"""Largest difference, relative to the largest value, that another order of fp32 summation may make in deep models."""
CUT_CLOSE = 0.1
"""Largest difference of log-probs that bf16 weights may make; a model cut wrongly is off by whole numbers."""


Way = tuple[str, bool]
"""How a model attends: a name of WAYS, and whether what sequences begin with alike can be computed once."""


def load_and_try(model_dir: str | Path, config: Any, scores: bool = False) -> tuple[Any, Way]:
    """The whole model in fp32 on this process's CPU, and the first of WAYS that packs right. A score that the directory
    lacks is zero: every answer starts equal.

    Raises UnsupportedModel.
    """
    check_tied(model_dir, not scores and config.get_text_config().tie_word_embeddings)
    try:
        model, report = model_class(scores).from_pretrained(
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
    everywhere: Tensor = told(said)
    return everywhere


def check_cut(model: Any, expected: Tensor, said: Callable[[Batch], Tensor]) -> None:
    """Compares what a model whose matrices are cut says of the sequences (`said` of a batch) with `expected`; a
    collective. Raises UnsupportedModel on every rank."""
    samples = [TrainingSample(t[0].tolist(), [0] + [1] * (t.shape[1] - 1)) for t in _sequences(model).split(LENGTHS, 1)]
    got = said(Batch.from_samples(samples, "none").to(expected.device))
    if not bool((got - expected).abs().max() <= CUT_CLOSE):
        raise UnsupportedModel(
            f"{type(model).__name__}: cut over tensor ranks by its plan it computes something else; use "
            "parallel.tensor = 1"
        )


@torch.no_grad()
def _choose(model: Any) -> Way:
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
            return way, way == OURS and _shares(model)
        reasons.append(f"{way}: its sequences see each other")
    raise UnsupportedModel(f"{type(model).__name__} cannot be trained on packed sequences ({'; '.join(reasons)})")


BEGINNING, ENDS = 6, (3, 5)
"""Tokens that two sequences have in common, and that each has for itself, to try whether they can share."""


def _shares(model: Any) -> bool:
    tokens = _sequences(model)[:, : BEGINNING + sum(ENDS)]
    common, *ends = tokens.split([BEGINNING, *ENDS], 1)
    model.set_attn_implementation("eager")
    alone = [model.base_model(input_ids=torch.cat([common, end], 1), use_cache=False).last_hidden_state for end in ends]
    expected = torch.cat([alone[0][:, :BEGINNING], *(hidden[:, BEGINNING:] for hidden in alone)], 1)
    model.set_attn_implementation(OURS)
    lengths = [BEGINNING, *ENDS]
    pack = describe_pack(lengths, lengths, tokens.device, parents=[-1, 0, 0])
    folded = forward(model, tokens, pack.positions[None], pack)
    return _close(folded, expected)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= CLOSE * b.abs().max())


def together(work: Any) -> Any:
    """Rank 0's result of `work`; a failure of rank 0 (UnsupportedModel) is raised on every rank."""
    result = known = refused = None
    if dist.get_rank() == 0:
        try:
            result, known = work()
        except UnsupportedModel as error:
            refused = str(error)
    known, refused = told((known, refused))
    if refused is not None:
        raise UnsupportedModel(refused)
    return result, known
