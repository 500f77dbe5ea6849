"""Who may do what: kinds of callers, how each shows itself, and the one table of their rights.

Methods of services are in `methods.py`, subjects of NATS in `subjects.py`; docs/security.md shows both, and a test
compares them.
"""

from penstock.access.identity import Callers, Identity
from penstock.access.kinds import ANYBODY, KINDS, Kind, kind_of_uri
from penstock.access.login import Login
from penstock.access.methods import LARGEST, METHODS, QUOTAS, Quota, Rule, rule_of, service_of
from penstock.access.subjects import EVERYTHING, PARTS, Subjects, inbox_of, subjects_of

__all__ = [
    "ANYBODY",
    "EVERYTHING",
    "KINDS",
    "LARGEST",
    "METHODS",
    "PARTS",
    "QUOTAS",
    "Callers",
    "Identity",
    "Kind",
    "Login",
    "Quota",
    "Rule",
    "Subjects",
    "inbox_of",
    "kind_of_uri",
    "rule_of",
    "service_of",
    "subjects_of",
]
