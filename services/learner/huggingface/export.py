"""Writes a complete Hugging Face model directory: what transformers, vLLM or another run loads without our help."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from penstock.names import EXPORT_MARK
from services.learner.huggingface.config import as_scoring

SHARD_BYTES = 4 * 2**30
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf")


def write(tensors: Iterable[tuple[str, Tensor]], source: str | Path, target: str | Path, scoring: str = "") -> Path:
    """Streams `tensors` (rank 0's `policy.export()`) into `target`, beside a copy of all that `source` has but weights.

    Config, tokenizer, chat template and generation defaults are those of the model the run started from; the config's
    dtype is set to that of the tensors, and its architecture to `scoring` where that is given (a reward model's). At
    most one shard is in memory. `target` appears complete or not at all; one that exists is replaced. Only rank 0 calls
    this; the others drain their `export()`. Returns `target`.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for path in Path(source).iterdir():
        if path.is_file() and not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, temporary / path.name)  # the content alone: what is read-only there is written here
    shards = _write_shards(tensors, temporary)
    if len(shards) > 1:
        _write_index(shards, temporary)
    raw = json.loads((temporary / "config.json").read_text())
    raw["torch_dtype" if "torch_dtype" in raw else "dtype"] = _dtype(shards[0][1])
    if scoring:
        given = raw.get("pad_token_id")
        raw = as_scoring(raw, scoring, _padding(temporary) if given is None else given)
    (temporary / "config.json").write_text(json.dumps(raw, indent=2))
    (temporary / EXPORT_MARK).write_text("Written by penstock export, which may replace this directory.\n")
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return target


def _write_shards(tensors: Iterable[tuple[str, Tensor]], directory: Path) -> list[tuple[Path, dict[str, Tensor]]]:
    """Files in order with their tensors as meta tensors (names, shapes and dtypes only)."""
    shards: list[tuple[Path, dict[str, Tensor]]] = []
    shard: dict[str, Tensor] = {}
    size = 0

    def flush() -> None:
        path = directory / f"shard-{len(shards)}"
        save_file(shard, path, metadata={"format": "pt"})
        shards.append((path, {name: tensor.to("meta") for name, tensor in shard.items()}))
        shard.clear()

    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            flush()
            size = 0
        shard[name] = tensor
        size += tensor.nbytes
    flush()
    named = []
    for i, (path, content) in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        named.append((path.rename(directory / name), content))
    return named


def _write_index(shards: list[tuple[Path, dict[str, Tensor]]], directory: Path) -> None:
    index = {
        "metadata": {"total_size": sum(t.nbytes for _, content in shards for t in content.values())},
        "weight_map": {name: path.name for path, content in shards for name in content},
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _dtype(content: dict[str, Tensor]) -> str:
    return str(next(iter(content.values())).dtype).removeprefix("torch.")


def _padding(directory: Path) -> int | None:
    """The id of the tokenizer's padding token, if it has one of its own."""
    try:
        special = json.loads((directory / "tokenizer_config.json").read_text())
        added = json.loads((directory / "tokenizer.json").read_text())["added_tokens"]
    except (OSError, ValueError, KeyError):
        return None
    name = special.get("pad_token")
    name = name.get("content") if isinstance(name, dict) else name
    if name == special.get("eos_token"):
        return None
    return next((token["id"] for token in added if token["content"] == name), None)
