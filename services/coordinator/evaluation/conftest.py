"""A real nats-server, a connection, a run with its recipe and tokenizer."""

from services.coordinator.testing.fixtures import bus, chat, folder, names, nats

__all__ = ["bus", "chat", "folder", "names", "nats"]
