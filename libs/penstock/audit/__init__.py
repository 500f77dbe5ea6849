"""What a run's streams say of what it promised: read without its services, whether it is under way or over."""

from penstock.audit.reading import read_run
from penstock.audit.run import Audit, Verdict

__all__ = ["Audit", "Verdict", "read_run"]
