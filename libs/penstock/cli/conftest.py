"""Fixtures of a real nats-server."""

from penstock.testing.nats.fixtures import bus, nats

__all__ = ["bus", "nats"]
