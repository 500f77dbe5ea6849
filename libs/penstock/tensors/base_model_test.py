"""What tells one model from another, over real safetensors files."""

import json
import pathlib
from typing import Any

import pytest

from penstock.tensors import base_model


def directory(folder: pathlib.Path, tensors: dict[str, bytes], files: int = 1) -> pathlib.Path:
    """A model directory as safetensors has it: a header's length, the header, the bytes; in one file or several."""
    folder.mkdir()
    names = [f"model-{i}.safetensors" for i in range(files)] if files > 1 else ["model.safetensors"]
    held: dict[str, dict[str, bytes]] = {name: {} for name in names}
    for i, (name, data) in enumerate(tensors.items()):
        held[names[i % files]][name] = data
    for file, part in held.items():
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        body = b""
        for name, data in part.items():
            header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [len(body), len(body) + len(data)]}
            body += data
        words = json.dumps(header).encode()
        (folder / file).write_bytes(len(words).to_bytes(8, "little") + words + body)
    if files > 1:
        where = {name: file for file, part in held.items() for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


TENSORS = {"b": bytes(10_000), "a": b"12345", "empty": b""}


def test_the_same_tensors_are_the_same_model_however_they_are_filed(tmp_path: pathlib.Path) -> None:
    one = base_model(directory(tmp_path / "one", TENSORS))
    assert base_model(directory(tmp_path / "two", dict(reversed(TENSORS.items())), files=2)) == one


@pytest.mark.parametrize(
    "other",
    [
        {**TENSORS, "a": b"12346"},
        {**TENSORS, "b": b"1" + bytes(9_999)},
        {**TENSORS, "b": bytes(9_999) + b"1"},
        {**TENSORS, "b": bytes(10_001)},
        {"b": TENSORS["b"], "a": TENSORS["a"]},
        {**{n: t for n, t in TENSORS.items() if n != "a"}, "c": TENSORS["a"]},
    ],
)
def test_another_value_shape_or_name_is_another_model(other: dict[str, bytes], tmp_path: pathlib.Path) -> None:
    assert base_model(directory(tmp_path / "a", TENSORS)) != base_model(directory(tmp_path / "b", other))


def test_what_is_no_model_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError):
        base_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no such file format")
    with pytest.raises(ValueError, match="is no safetensors file"):
        base_model(tmp_path)
