"""Fixtures of the rollout's tests: a real nats-server, a connection, a run, and the tiny model's tokenizer."""

import pathlib

import pytest

from penstock.chat import ChatTokenizer
from penstock.testing.nats.fixtures import bus, names, nats
from penstock.tiny_model import make_model
from services.rollout.episode_testing import environment_address, quick

__all__ = ["bus", "chat", "environment_address", "names", "nats", "quick"]


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder: pathlib.Path = tmp_path_factory.mktemp("model")
    make_model(folder, hidden=32, layers=1, intermediate=64)
    return ChatTokenizer(folder)
