"""The text of tokens alone, from two small files: for those who read a run's samples and render nothing.

A whole ChatTokenizer takes a second to import and needs the model's directory, which may be gone when a run is over.

Invariant (test name): kept texts say what the whole tokenizer says, or are not kept.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

from penstock.chat.tokenizer import ChatTokenizer

FOLDER = "texts"
"""Below a run's directory."""
TOKENIZER, ENDS = "tokenizer.json", "ends.json"
TRIED = 4096
"""Tokens on which both must say the same before texts are kept."""


class HasText(Protocol):
    """What says the text of tokens."""

    def text(self, tokens: Sequence[int]) -> str: ...


class Texts:
    """Of a run's directory in which `keep` was. Raises OSError where it was not, or left what cannot be read."""

    def __init__(self, run: pathlib.Path) -> None:
        from tokenizers import Tokenizer

        folder = run / FOLDER

        try:
            ends = json.loads((folder / ENDS).read_text())
            self._tokenizer: Any = Tokenizer.from_file(str(folder / TOKENIZER))
        except OSError:
            raise
        except Exception as error:  # tokenizers raises nothing narrower for a file that is no tokenizer
            raise OSError(f"{folder}: not a run's tokenizer: {error}") from error
        self._ends = frozenset(ends)

    def text(self, tokens: Sequence[int]) -> str:
        """As `ChatTokenizer.text`, without control tokens."""
        kept = list(tokens)
        while kept and kept[-1] in self._ends:
            kept.pop()
        decoded: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        return decoded


def keep(chat: ChatTokenizer, run: pathlib.Path) -> bool:
    """Writes what `Texts` reads into a run's directory; whether it could: a tokenizer may have no such file, or clean
    up what it decodes.

    Raises OSError.
    """
    backend = chat.backend
    if backend is None:
        return False
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / TOKENIZER, backend.to_str())
    _replace(folder / ENDS, json.dumps(chat.stop_tokens))
    made, tokens = Texts(run), range(min(len(chat), TRIED))
    alike = made.text(tokens) == chat.text(tokens) and all(made.text([t]) == chat.text([t]) for t in tokens[::16])
    if not alike:
        (folder / ENDS).unlink()
    return alike


def _replace(path: pathlib.Path, text: str) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text(text)
    os.replace(partial, path)
