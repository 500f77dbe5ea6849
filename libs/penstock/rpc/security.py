"""Who may call: whoever shows what the server knows, by a token, a certificate, or both; on loopback perhaps anybody.

A run's services know kinds of callers: each shows what its secret makes of the service's name, or a certificate whose
URI names the kind, and the table of `penstock.access` says what that kind may do. Another team's service has one token,
or certificates of its own authority, and whoever shows it may call everything. Health checks need no token, because
probes have none; with mutual TLS they need a certificate like everybody.
"""

from __future__ import annotations

import hmac
import ipaddress
import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc

from penstock.access import ANYBODY, Callers, Identity, kind_of_uri, rule_of, service_of
from penstock.rpc.certificates import Certificates
from penstock.rpc.errors import Abort, permission_denied

OPEN_METHODS = ("/grpc.health.v1.Health/",)
_NAMES = "x509_subject_alternative_name"  # of a peer, as gRPC tells it


@dataclass(frozen=True, repr=False)
class Security:
    """How a server checks its callers, and how a channel shows itself. The same settings serve both sides.

    Attributes:
        token: bearer token that every call carries, and every caller must.
        identity: this side's kind and secret, instead of a token.
        callers: whom a server knows by their secrets.
        certificates: chain, key and authority of this side. With all three a server demands a client certificate.
        named: certificates must name a kind, and it may call what the table says.
    """

    token: str | None = None
    certificates: Certificates | None = None
    identity: Identity | None = None
    callers: Callers | None = None
    named: bool = False

    def __post_init__(self) -> None:
        if self.token is not None and not self.token.strip():
            raise ValueError("the token is empty")

    @classmethod
    def of_files(
        cls,
        *,
        token_file: str | pathlib.Path | None = None,
        callers_file: str | pathlib.Path | None = None,
        authority: str | pathlib.Path | None = None,
        certificate: str | pathlib.Path | None = None,
        key: str | pathlib.Path | None = None,
        named: bool = False,
    ) -> Security:
        """What the files hold. A token file is `KIND:SECRET` or a token.

        Raises OSError, or ValueError, which names the file, for half of a pair, an empty token and what is no PEM.
        """
        text = pathlib.Path(token_file).read_text().strip() if token_file is not None else None
        identity = Identity.parsed(text) if text is not None else None
        callers = None
        if callers_file is not None:
            try:
                callers = Callers.parsed(pathlib.Path(callers_file).read_text())
            except ValueError as error:
                raise ValueError(f"{callers_file}: {error}") from error
        given = authority is not None or certificate is not None or key is not None
        held = Certificates.of_files(authority=authority, certificate=certificate, key=key) if given else None
        return cls(None if identity else text, held, identity, callers, named)

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.certificates is not None

    @property
    def mutual(self) -> bool:
        """Whether a server with these settings demands a client certificate."""
        return self.certificates is not None and self.certificates.mutual

    @property
    def asks(self) -> bool:
        """Whether a server with these settings asks its callers for anything."""
        return self.token is not None or self.callers is not None or self.mutual

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """Credentials to listen with; None for plain text."""
        return self.certificates.server_credentials() if self.certificates is not None else None

    def shown_to(self, method: str) -> str | None:
        """What a call of a method carries; None for nothing."""
        return self.identity.shown_to(service_of(method)) if self.identity is not None else self.token

    def by_token(self, method: str, authorization: str | bytes | None) -> str:
        """Who shows this `authorization` metadata: a kind, or ANYBODY where no kinds are known. Raises an Abort."""
        if (self.token is None and self.callers is None) or method.startswith(OPEN_METHODS):
            return ANYBODY
        if authorization is None:
            raise _unknown("it shows no token")
        text = authorization.decode(errors="replace") if isinstance(authorization, bytes) else authorization
        shown = text.removeprefix("Bearer ")
        caller: str | None = self.callers.kind(service_of(method), shown) if self.callers is not None else None
        if caller is None and self.token is not None and hmac.compare_digest(shown.encode(), self.token.encode()):
            caller = ANYBODY
        if caller is None:
            raise _unknown("it shows a wrong token")
        self._permit(caller, method)
        return caller

    def by_certificate(self, method: str, caller: str, peer: Mapping[str, Iterable[bytes]]) -> str:
        """Who calls, given what its token said and gRPC's `auth_context` of the connection. Raises an Abort."""
        if not (self.named and self.mutual):
            return caller
        kinds = {kind for name in peer.get(_NAMES, ()) if (kind := kind_of_uri(name.decode(errors="replace")))}
        if len(kinds) != 1:
            raise permission_denied(
                "its certificate names no kind, or several (a URI such as spiffe://penstock/learner)"
            )
        (kind,) = kinds
        if caller not in (ANYBODY, kind):
            raise permission_denied(f"its certificate is the {kind}'s, and its token the {caller}'s")
        self._permit(kind, method)
        return kind

    def _permit(self, caller: str, method: str) -> None:
        rule = rule_of(method)
        if caller != ANYBODY and (rule is None or caller not in rule.callers):
            raise permission_denied(f"{caller} may not call {method.removeprefix('/')}")

    def check_address(self, address: str) -> None:
        """Raises ValueError where a token would cross a network in plain text."""
        if (self.token or self.identity) and not self.tls and not is_local(address):
            raise ValueError(f"{address}: a token needs TLS beyond this host (give certificate, key or authority)")

    def check_listening(self, address: str) -> None:
        """Raises ValueError where a server would show a kind's secret and ask nobody for one, or as `check_address`."""
        if self.identity is not None and not self.asks:
            raise ValueError(f"{address}: a server that shows itself as the {self.identity.kind} must know its callers")
        self.check_address(address)


def _unknown(why: str) -> Abort:
    return Abort(grpc.StatusCode.UNAUTHENTICATED, f"missing or wrong bearer token: {why}")


def is_local(address: str) -> bool:
    """Whether only this host reaches an address to listen on or to call."""
    if address.startswith("unix:"):
        return True
    host = address.rsplit(":", 1)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
