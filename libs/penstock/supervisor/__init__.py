"""Runs all services of one run on one host: starts them, keeps them alive, ends them."""

from penstock.supervisor.plan import Service, plan
from penstock.supervisor.supervisor import ServiceFailed, Supervisor

__all__ = ["Service", "ServiceFailed", "Supervisor", "plan"]
