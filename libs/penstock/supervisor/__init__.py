"""Runs all services of one run on one host: starts them, keeps them alive, ends them."""

from penstock.supervisor.plan import Joins, Service, plan
from penstock.supervisor.scaling import Scaling, counts_of, joined_counts_of
from penstock.supervisor.supervisor import ServiceFailed, Supervisor

__all__ = ["Joins", "Scaling", "Service", "ServiceFailed", "Supervisor", "counts_of", "joined_counts_of", "plan"]
