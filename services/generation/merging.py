"""Adapters of a version merged into the model that the engine was started with (weights.proto, Adapters).

The base is read from its directory again for every version: the page cache has it, no second copy stays in memory, and
a version never depends on the one before it.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping

import torch
from safetensors import safe_open

SIDES = (".lora_A.weight", ".lora_B.weight")


def merged(
    folder: str | pathlib.Path, adapters: Mapping[str, torch.Tensor], scale: float
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of the whole model: fp32 where it is adapted, as stored elsewhere.

    Raises ValueError for an adapter without its other side, or of a module that the model does not have.
    """
    left = set(adapters)
    for name, weight in _stored(pathlib.Path(folder)):
        a, b = (name.removesuffix(".weight") + side for side in SIDES)
        if a in left and b in left:
            left -= {a, b}
            weight = weight.float() + adapters[b].float() @ adapters[a].float() * scale
        yield name, weight
    if left:
        raise ValueError(f"{len(left)} adapters fit no weight of {folder}, first {min(left)!r}")


def _stored(folder: pathlib.Path) -> Iterator[tuple[str, torch.Tensor]]:
    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"}
    if index.is_file():
        files = set(json.loads(index.read_text())["weight_map"].values())
    for path in sorted(files):
        with safe_open(folder / path, "pt") as file:
            for name in file.keys():
                yield name, file.get_tensor(name)
