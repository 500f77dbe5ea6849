"""What of a model travels, and what is taken of it."""

import io
import json
import pathlib
import tarfile

import pytest

from penstock.chat import ChatTokenizer
from penstock.cli.bundling import NoBundle, packed, unpack
from penstock.tensors import has_weights
from penstock.tiny_model import make_model


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    make_model(tmp_path / "model", hidden=32, layers=1, intermediate=64)
    return tmp_path / "model"


def test_what_is_unpacked_is_what_was_packed_and_no_file_of_another_name(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (model / "modeling_own.py").write_text("raise SystemExit")
    unpack(packed(model), tmp_path / "there")
    found = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    assert found == {name: (model / name).read_bytes() for name in found}
    assert {"config.json", "tokenizer.json"} <= set(found) and "modeling_own.py" not in found
    assert has_weights(model) and not has_weights(tmp_path / "there")
    assert ChatTokenizer(tmp_path / "there").text([3, 4]) == ChatTokenizer(model).text([3, 4])
    assert packed(model) == packed(model)


def test_a_model_with_code_of_its_own_is_not_sent(model: pathlib.Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.Model"}}))
    with pytest.raises(NoBundle, match=r"config\.json names code of its own"):
        packed(model)


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "own.py", "model.safetensors", "a/config.json"])
def test_what_no_bundle_has_is_not_written(tmp_path: pathlib.Path, name: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(NoBundle, match="which is no file of a bundle"):
        unpack(out.getvalue(), tmp_path / "there")
    link = tarfile.TarInfo("config.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(link)
    with pytest.raises(NoBundle):
        unpack(out.getvalue(), tmp_path / "there")
    with pytest.raises(NoBundle, match="cannot be read"):
        unpack(b"no archive", tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())
