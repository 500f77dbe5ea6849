"""How a connection shows itself to NATS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

from penstock.access.subjects import inbox_of


@dataclass(frozen=True, repr=False)
class Login:
    """A user with a password, or a token (a secret without a user), or neither; and TLS settings of the connection."""

    user: str | None = None
    secret: str | None = None
    tls: ssl.SSLContext | None = None

    @classmethod
    def parsed(cls, text: str, tls: ssl.SSLContext | None = None) -> Login:
        """What a file says: USER:PASSWORD, or a token; empty for neither."""
        user, colon, secret = text.strip().partition(":")
        return cls(user, secret, tls) if colon else cls(None, user or None, tls)

    def options(self) -> dict[str, Any]:
        """As the client takes them. A user hears its own inbox alone, and may have no other."""
        if self.user is None:
            return {"token": self.secret, "tls": self.tls}
        return {"user": self.user, "password": self.secret, "tls": self.tls, "inbox_prefix": inbox_of(self.user)}
