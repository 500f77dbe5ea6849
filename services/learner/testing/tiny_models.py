"""Tiny Hugging Face models and batches that exercise every branch of the learner."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from services.learner.interface.batch import Batch, Signal, TrainingSample

VOCABULARY = 251  # not divisible by any tensor size: padded rows take part if nobody masks them


def tiny_config(family: str, tied: bool = False) -> Any:
    """4 layers, 4 heads, 2 KV heads; Qwen3 with head_dim ≠ hidden/heads, Llama with llama3 rope scaling.

    For the transformers backend also Mistral with a window that most sequences are longer than, Gemma, Gemma 2 (whose
    logits are capped), and GPT-2 (learned positions, biases, always tied, dropout in training). Of Qwen3-MoE, with 2
    of 4 experts for every token, also one ("raw") whose weights of experts do not add up to one.
    """
    if family == "gpt2":
        return GPT2Config(vocab_size=VOCABULARY, n_positions=256, n_embd=64, n_layer=4, n_head=4)
    common = dict(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
    )
    if family == "qwen3":
        return Qwen3Config(head_dim=32, **common)
    if family == "qwen2":
        return Qwen2Config(**common)
    if family in ("qwen3_moe", "qwen3_moe_raw"):
        return Qwen3MoeConfig(
            head_dim=32,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=48,
            norm_topk_prob=family == "qwen3_moe",
            **common,
        )
    if family == "mistral":
        return MistralConfig(sliding_window=8, **common)
    if family == "gemma":
        return GemmaConfig(head_dim=32, **common)
    if family == "gemma2":
        return Gemma2Config(head_dim=32, query_pre_attn_scalar=32, **common)
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return LlamaConfig(rope_parameters=scaling, **common)


def tiny_model(family: str, tied: bool = False) -> Any:
    """fp32, deterministic, without dropout; norms and biases moved off their trivial initial values."""
    return _moved(AutoModelForCausalLM, tiny_config(family, tied))


def tiny_scoring_model(family: str, tied: bool = False) -> Any:
    """As `tiny_model`, with a score in place of the vocabulary: a reward model."""
    config = tiny_config(family, tied)
    config.num_labels, config.pad_token_id = 1, 0
    return _moved(AutoModelForSequenceClassification, config)


def _moved(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = kind.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(2.0)
    return model.eval()


def stored(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A model's parameters, or its gradients, under the names of its directory: transformers 5 joins experts."""
    found = {}
    for name, tensor in tensors:
        if ".mlp.experts." not in name:
            found[name] = tensor
            continue
        before, _, joined = name.rpartition(".")
        for i, expert in enumerate(tensor):
            parts = ("gate_proj", "up_proj") if joined == "gate_up_proj" else (joined,)
            for part, whole in zip(parts, expert.chunk(len(parts)), strict=True):
                found[f"{before}.{i}.{part}.weight"] = whole
    return found


def save_tiny_model(directory: Path, family: str, tied: bool = False) -> Path:
    tiny_model(family, tied).save_pretrained(directory)
    return directory


def save_tiny_scoring_model(directory: Path, family: str, tied: bool = False) -> Path:
    tiny_scoring_model(family, tied).save_pretrained(directory)
    return directory


def random_samples(seed: int, count: int = 11, vocabulary: int = VOCABULARY, longest: int = 40) -> list[TrainingSample]:
    """Lengths 2 … longest, masks with holes, one sample with nothing to train, groups of uneven size.

    All begin alike, those of a group for longer, with trained tokens in what they share; one is the beginning of
    another, and two are equal.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        length = 2 if i == 0 else int(rng.integers(3, longest + 1))
        mask = (rng.random(length) < 0.6).astype(np.float32)
        mask[0], mask[1] = 0.0, 1.0
        if i == 3:
            mask[:] = 0.0
        samples.append(
            TrainingSample(
                tokens=rng.integers(0, vocabulary, length),
                loss_mask=mask,
                behaviour_logprobs=np.where(mask > 0, rng.normal(-5.5, 0.7, length), 0.0),
                signal=float(rng.normal()),
                group=int(i**0.5) * 7,
            )
        )
    _share(samples, rng, vocabulary)
    return samples


def _share(samples: list[TrainingSample], rng: np.random.Generator, vocabulary: int) -> None:
    """Overwrites what samples begin with."""
    tokens = [np.asarray(sample.tokens) for sample in samples]
    everywhere = rng.integers(0, vocabulary, 9)
    for i, own in enumerate(tokens):
        own[:9] = everywhere[: len(own)]
        if i and samples[i - 1].group == samples[i].group:
            before = tokens[i - 1]
            common = min(len(own), len(before))
            shared = common if i % 5 == 0 else int(rng.integers(0, common + 1))
            own[:shared] = before[:shared]
    if len(samples) > 5:
        samples[5] = replace(samples[4], signal=samples[5].signal)


def random_batch(seed: int, kind: Signal = "advantage", **sizes: int) -> Batch:
    return Batch.from_samples(random_samples(seed, **sizes), kind)


def preference_samples(seed: int, pairs: int = 5, vocabulary: int = VOCABULARY) -> list[TrainingSample]:
    """Chosen and rejected answers of different lengths (2 … 24 tokens) to a shared prompt, in pairs."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(pairs):
        prompt = rng.integers(0, vocabulary, int(rng.integers(2, 17)))
        for role in (1.0, -1.0):
            answer = rng.integers(0, vocabulary, int(rng.integers(2, 25)))
            mask = np.concatenate([np.zeros(len(prompt)), np.ones(len(answer))])
            samples.append(TrainingSample(np.concatenate([prompt, answer]), mask, signal=role, group=i))
    return samples


def ranked_samples(seed: int, groups: int = 4, vocabulary: int = VOCABULARY) -> list[TrainingSample]:
    """Groups of two to four ranked answers (2 … 24 tokens, two of them equally good where there are four) to a prompt,
    each with the token behind it that stands for its score."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(groups):
        prompt = rng.integers(0, vocabulary, int(rng.integers(2, 17)))
        for rank in ((1.0, 0.0), (2.0, 1.0, 0.0), (0.0, 1.0, 1.0, 2.0))[i % 3]:
            tokens = np.concatenate([prompt, rng.integers(0, vocabulary, int(rng.integers(2, 25))), [0]])
            mask = np.zeros(len(tokens))
            mask[-1] = 1.0
            samples.append(TrainingSample(tokens, mask, signal=rank, group=3 * i))
    return samples


def muon(model: Any, **settings: Any) -> list[torch.optim.Optimizer]:
    """torch's own for hidden matrices, as large as AdamW's steps; `adamw` for the rest."""
    ends = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    hidden = [p for p in model.parameters() if p.dim() == 2 and id(p) not in ends]
    rest = torch.nn.ParameterList([p for p in model.parameters() if all(p is not other for other in hidden)])
    rate, decay = settings["learning_rate"], settings["weight_decay"]
    own = torch.optim.Muon(hidden, lr=rate, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [own, adamw(rest, **settings)]


def adamw(
    model: Any, *, learning_rate: float, weight_decay: float, beta2: float, epsilon: float, **others: Any
) -> torch.optim.AdamW:
    """torch's own, with the learner's rule: matrices decay, norms and biases do not. others: what it has no use for."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    kept = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, beta2), eps=epsilon)
