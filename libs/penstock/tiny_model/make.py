"""Makes a random Qwen3 of about a million parameters, its character tokenizer and the data sets. No hub, no torch.

The task is `sort_characters`: given n distinct characters of 0-9a-z, answer them in ascending order. n is heavy-tailed
(rounded lognormal, median 10, at most 36), so the longest completion of a batch is about three times the median.
Demonstrations are noisy on purpose (half carry one error): supervised warm-up teaches the format and most of the
skill, and reinforcement learning has something left to do.
"""

import json
import math
import os
import pathlib
import random
from typing import Any

import numpy as np

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
SPECIALS = ("<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
CHARACTERS = '0123456789+-*=;#,.:()<>? \nabcdefghijklmnopqrstuvwxyz_{}"/'
TOOL = "<|tool|>"
VOCABULARY = 64
NOISE = 0.5

TEMPLATE = (
    "{%- for m in messages -%}"
    "{{- '<|' + m['role'] + '|>' + m['content'] + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def make_assets(folder: pathlib.Path, *, seed: int = 0, demonstrations: int = 40_000, prompts: int = 16_384) -> None:
    """Writes model/ and sft, train, preferences, ranked, and eval, sft-eval, preferences-eval, ranked-eval (.jsonl)
    below `folder`. Rows never overlap.

    Every row's `pattern` is what any answer of the right characters and length matches: an easier reward (`format`).
    """
    make_model(folder / "model", seed=seed)
    rng = random.Random(seed)
    seen: set[str] = set()

    def take(n: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        while len(rows) < n:
            row = _problem(rng)
            if row["prompt"] not in seen:
                seen.add(row["prompt"])
                row["pattern"] = f"[{''.join(sorted(set(row['prompt'])))}]{{{len(row['prompt'])}}}"
                rows.append(row)
        return rows

    held_out, train, sft = take(512), take(prompts), take(demonstrations)
    for row in sft:
        row["target"] = _corrupt(rng, row["answer"]) if rng.random() < NOISE else row["answer"]
    preferences = take(prompts // 2)
    for row in preferences:
        row["chosen"], row["rejected"] = row["answer"], _corrupt(rng, row["answer"])
    pairs_held_out, sft_held_out, ranked, ranked_held_out = take(512), take(512), take(prompts), take(512)
    for row in pairs_held_out:
        row["chosen"], row["rejected"] = row["answer"], _corrupt(rng, row["answer"])
    for row in sft_held_out:
        row["target"] = row["answer"]
    for row in (*ranked, *ranked_held_out):
        row["answers"] = _worse_and_worse(rng, row["answer"])
    for name, rows in (
        ("eval", held_out),
        ("train", train),
        ("sft", sft),
        ("preferences", preferences),
        ("preferences-eval", pairs_held_out),
        ("ranked", ranked),
        ("ranked-eval", ranked_held_out),
        ("sft-eval", sft_held_out),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_model(
    folder: pathlib.Path,
    *,
    seed: int = 0,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    intermediate: int = 512,
    context: int = 256,
    experts: int = 0,
) -> None:
    """Writes a randomly initialised Qwen3 with its tokenizer as a Hugging Face directory.

    experts: of which a token has two, each with `intermediate` numbers, in the place of every layer's MLP; 0: a dense
    model.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from safetensors.numpy import save_file
    from transformers import Qwen3Config, Qwen3MoeConfig

    of_mixture = {"num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": intermediate}
    config = (Qwen3MoeConfig if experts else Qwen3Config)(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        attention_dropout=0.0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype="float32",
        architectures=["Qwen3MoeForCausalLM" if experts else "Qwen3ForCausalLM"],
        initializer_range=0.06,
        **({**of_mixture, "norm_topk_prob": True} if experts else {}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    rng = np.random.default_rng(seed)

    def weight(rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (rng.standard_normal((rows, columns)) * 0.06).astype(np.float32)

    def ones(n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.ones(n, np.float32)

    tensors = {"model.embed_tokens.weight": weight(VOCABULARY, hidden), "lm_head.weight": weight(VOCABULARY, hidden)}
    tensors["model.norm.weight"] = ones(hidden)
    for i in range(layers):
        at = f"model.layers.{i}."
        tensors |= {
            at + "self_attn.q_proj.weight": weight(heads * head_dim, hidden),
            at + "self_attn.k_proj.weight": weight(kv_heads * head_dim, hidden),
            at + "self_attn.v_proj.weight": weight(kv_heads * head_dim, hidden),
            at + "self_attn.o_proj.weight": weight(hidden, heads * head_dim),
            at + "self_attn.q_norm.weight": ones(head_dim),
            at + "self_attn.k_norm.weight": ones(head_dim),
            at + "input_layernorm.weight": ones(hidden),
            at + "post_attention_layernorm.weight": ones(hidden),
        }
        if experts:
            tensors[at + "mlp.gate.weight"] = weight(experts, hidden)
        for mlp in [f"{at}mlp.experts.{j}." for j in range(experts)] or [at + "mlp."]:
            tensors |= {
                mlp + "gate_proj.weight": weight(intermediate, hidden),
                mlp + "up_proj.weight": weight(intermediate, hidden),
                mlp + "down_proj.weight": weight(hidden, intermediate),
            }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_tokenizer(folder)


def _write_tokenizer(folder: pathlib.Path) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *CHARACTERS, TOOL])}
    assert len(vocabulary) == VOCABULARY
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>", TOOL],
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def _problem(rng: random.Random) -> dict[str, Any]:
    n = int(min(36, max(3, round(math.exp(rng.gauss(2.3, 0.6))))))
    prompt = "".join(rng.sample(ALPHABET, n))
    return {"prompt": prompt, "answer": "".join(sorted(prompt)), "n": n}


def _corrupt(rng: random.Random, answer: str) -> str:
    """A plausible wrong answer: one character dropped, doubled, replaced or swapped with the next."""
    while True:
        letters = list(answer)
        i = rng.randrange(len(letters))
        kind = rng.randrange(4)
        if kind == 0 and len(letters) > 1:
            del letters[i]
        elif kind == 1:
            letters.insert(i, letters[i])
        elif kind == 2:
            letters[i] = rng.choice(ALPHABET)
        elif i + 1 < len(letters):
            letters[i], letters[i + 1] = letters[i + 1], letters[i]
        if "".join(letters) != answer:
            return "".join(letters)


def _worse_and_worse(rng: random.Random, answer: str) -> list[str]:
    """The answer, one with an error, and one with two. A third of the errors cut off an end: a reward model that seldom
    saw them would be shown them by the policy that trains against it."""
    answers = [answer]
    while len(answers) < 3:
        last = answers[-1]
        cut = rng.choice((last[1:], last[:-1])) if rng.random() < 1 / 3 else ""
        worse = cut or _corrupt(rng, last)
        if worse not in answers:
            answers.append(worse)
    return answers
