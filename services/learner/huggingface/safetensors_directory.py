"""The tensors of a Hugging Face model directory, by name."""

import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from services.learner.interface.errors import UnsupportedModel


class SafetensorsDirectory:
    """Reads single tensors of a Hugging Face directory, one file or sharded with an index."""

    def __init__(self, model_dir: str | Path) -> None:
        self._dir = Path(model_dir)
        index = self._dir / "model.safetensors.index.json"
        if index.is_file():
            self._file_of: dict[str, str] = json.loads(index.read_text())["weight_map"]
        elif (self._dir / "model.safetensors").is_file():
            with safe_open(self._dir / "model.safetensors", "pt") as file:
                self._file_of = dict.fromkeys(file.keys(), "model.safetensors")
        else:
            raise UnsupportedModel(f"{model_dir} has no model.safetensors (nor an index of sharded ones)")

    @property
    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._file_of)

    def get(self, name: str) -> Tensor:
        """Raises UnsupportedModel if there is no such tensor."""
        if name not in self._file_of:
            raise UnsupportedModel(f"{self._dir} has no tensor {name}; it has {len(self._file_of)} others")
        with safe_open(self._dir / self._file_of[name], "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor
