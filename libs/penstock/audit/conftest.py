"""A real nats-server, a connection and a run's names."""

from penstock.testing.nats.fixtures import bus, names, nats

__all__ = ["bus", "names", "nats"]
