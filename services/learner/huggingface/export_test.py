"""An exported directory is loaded by transformers with the very weights that were written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from penstock.names import EXPORT_MARK
from services.learner.huggingface import export as hf_export
from services.learner.huggingface.safetensors_directory import SafetensorsDirectory
from services.learner.testing.tiny_models import save_tiny_model, tiny_model


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = save_tiny_model(tmp_path / "source", "qwen3")
    (directory / "tokenizer.json").write_text("{}")
    return directory


def test_transformers_loads_it(source: Path, tmp_path: Path) -> None:
    tensors = {name: p.detach() + 1.0 for name, p in tiny_model("qwen3").named_parameters()}
    target = hf_export.write(iter(tensors.items()), source, tmp_path / "export")
    loaded = dict(AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).named_parameters())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert (target / "tokenizer.json").read_text() == "{}"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_large_models_are_sharded_with_an_index(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_export, "SHARD_BYTES", 100_000)
    tensors = {name: p.detach() for name, p in tiny_model("qwen3").named_parameters()}
    target = hf_export.write(iter(tensors.items()), source, tmp_path / "export")
    assert len(list(target.glob("model-*-of-*.safetensors"))) > 2
    assert not (target / "model.safetensors").exists()
    reader = SafetensorsDirectory(target)
    assert all(torch.equal(reader.get(name), tensor) for name, tensor in tensors.items())


def test_an_older_export_is_replaced_and_a_failed_one_leaves_it(source: Path, tmp_path: Path) -> None:
    old = {"x": torch.ones(1)}
    target = hf_export.write(iter(old.items()), source, tmp_path / "export")

    def failing() -> Any:
        yield "x", torch.zeros(1)
        raise ConnectionError("a rank died")

    with pytest.raises(ConnectionError):
        hf_export.write(failing(), source, target)
    assert load_file(target / "model.safetensors")["x"].item() == 1.0
    hf_export.write(iter({"x": torch.zeros(1)}.items()), source, target)
    assert load_file(target / "model.safetensors")["x"].item() == 0.0


def test_a_read_only_model_is_exported_and_what_is_written_bears_our_mark(source: Path, tmp_path: Path) -> None:
    for path in source.iterdir():
        path.chmod(0o444)
    target = hf_export.write(iter({"x": torch.ones(1)}.items()), source, tmp_path / "export")
    assert (target / EXPORT_MARK).is_file()
    assert all(path.stat().st_mode & 0o200 for path in target.iterdir()), "its owner may write it, root or not"
