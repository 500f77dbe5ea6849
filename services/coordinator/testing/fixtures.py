"""A run with its recipe and tokenizer, beside a real nats-server with its streams."""

import pathlib

import pytest

from penstock.chat import ChatTokenizer
from penstock.testing.nats.fixtures import bus, names, nats
from services.coordinator.testing.run import make_recipe

__all__ = ["bus", "chat", "folder", "names", "nats"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Model and data, made once."""
    made = tmp_path_factory.mktemp("run")
    make_recipe(made)
    return made


@pytest.fixture(scope="session")
def chat(folder: pathlib.Path) -> ChatTokenizer:
    return ChatTokenizer(folder / "model")
