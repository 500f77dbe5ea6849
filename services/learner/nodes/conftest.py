"""Fixtures of a real nats-server with a run."""

from penstock.testing.nats.fixtures import bus, names, nats

__all__ = ["bus", "names", "nats"]
