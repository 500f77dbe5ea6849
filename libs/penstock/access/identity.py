"""How a kind shows itself with a secret, to one service at a time.

    learner's file: learner:SECRET          a call to S shows  HMAC(SECRET, S)
    callers' file:  {S: {learner: SHA-256 of what the learner shows to S}}

A service that is shown something can use it nowhere else: what the environment service sees of the rollout opens no
generation service. The callers' file opens nothing at all, so that one of it serves every service.

Invariants (test names): what is shown to one service is taken by no other; the callers' file has no secret in it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from penstock.access.kinds import KINDS, Kind


@dataclass(frozen=True, repr=False)
class Identity:
    """A kind and the secret by which it is known."""

    kind: Kind
    secret: str

    @classmethod
    def parsed(cls, text: str) -> Identity | None:
        """What a file `KIND:SECRET` says; None where it is something else, such as another team's token."""
        said, _, secret = text.strip().partition(":")
        kind = next((each for each in KINDS if each == said), None)
        return cls(kind, secret) if kind is not None and secret else None

    def shown_to(self, service: str) -> str:
        """What calls to `package.Service` show."""
        return hmac.new(self.secret.encode(), service.encode(), "sha256").hexdigest()


class Callers:
    """Whom a server knows. Made of identities, or of what `text` wrote."""

    def __init__(self, digests: Mapping[str, Mapping[Kind, str]]) -> None:
        self._digests = digests
        self._kinds = {service: {digest: kind for kind, digest in known.items()} for service, known in digests.items()}

    @classmethod
    def of(cls, identities: Collection[Identity], services: Iterable[str]) -> Callers:
        """These identities, as each of these services sees them."""
        return cls({s: {each.kind: _digest(each.shown_to(s)) for each in identities} for s in services})

    @classmethod
    def parsed(cls, text: str) -> Callers:
        """What a callers' file says. Raises ValueError."""
        said = json.loads(text)
        if not isinstance(said, dict) or not all(isinstance(known, dict) for known in said.values()):
            raise ValueError("it is no callers' file: {service: {kind: digest}}")
        unknown = sorted({str(kind) for known in said.values() for kind in known} - set(KINDS))
        if unknown:
            raise ValueError(f"it names the kind {unknown[0]!r}; there are {', '.join(KINDS)}")
        return cls(said)

    def text(self) -> str:
        """As a file."""
        return json.dumps(self._digests, indent=1) + "\n"

    def kind(self, service: str, shown: str) -> Kind | None:
        """Who shows this to a service; None for nobody known."""
        return self._kinds.get(service, {}).get(_digest(shown))


def _digest(shown: str) -> str:
    return hashlib.sha256(shown.encode()).hexdigest()
