"""A directory that says its head is the embedding, and holds another one beside it.

transformers (and so many an engine) then unties the two and uses the head; who ties them trains another model than the
one that generates, and drops the head from what it exports. Nobody can know which of the two was meant.
"""

from pathlib import Path

import torch

from services.learner.huggingface.safetensors_directory import SafetensorsDirectory
from services.learner.interface.errors import UnsupportedModel

_HEADS = ("lm_head.weight", "embed_out.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


def check_tied(model_dir: str | Path, tied: bool) -> None:
    """Raises UnsupportedModel if the head is tied to the embedding and the directory has two different ones."""
    if not tied:
        return
    stored = SafetensorsDirectory(model_dir)
    heads, embeddings = (
        sorted((name for name in stored.names if name.endswith(ends)), key=len) for ends in (_HEADS, _EMBEDDINGS)
    )
    if not heads or not embeddings or torch.equal(stored.get(heads[0]), stored.get(embeddings[0])):
        return
    raise UnsupportedModel(
        f"{model_dir}: tie_word_embeddings is true, but {heads[0]} is another than {embeddings[0]}; set it to false in "
        f"config.json to train both, or take {heads[0]} out of the file"
    )
