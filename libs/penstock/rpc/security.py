"""Who may call: a bearer token, mutual TLS, both, or neither (loopback only).

Health checks need no token, because probes have none; with mutual TLS they need a certificate like everybody.
"""

from __future__ import annotations

import hmac
import ipaddress
import pathlib
from dataclasses import dataclass

import grpc

OPEN_METHODS = ("/grpc.health.v1.Health/",)


@dataclass(frozen=True, repr=False)
class Security:
    """How a server checks its callers, and how a channel shows itself. The same settings serve both sides.

    Attributes:
        token: bearer token that every call carries.
        certificate, key: PEM chain and private key of this side.
        authority: PEM of the certificate authority that the other side must be signed by. Given together with
            `certificate` and `key`, a server demands a client certificate.
    """

    token: str | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    authority: bytes | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        if self.token is not None and not self.token.strip():
            raise ValueError("the token is empty")

    @classmethod
    def of_files(
        cls,
        *,
        token_file: str | pathlib.Path | None = None,
        authority: str | pathlib.Path | None = None,
        certificate: str | pathlib.Path | None = None,
        key: str | pathlib.Path | None = None,
    ) -> Security:
        """What the files hold. Raises OSError, or ValueError for half of a pair and an empty token."""

        def content(path: str | pathlib.Path | None) -> bytes | None:
            return pathlib.Path(path).read_bytes() if path is not None else None

        token = content(token_file)
        said = token.decode().strip() if token is not None else None
        return cls(said, content(certificate), content(key), content(authority))

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.certificate is not None or self.authority is not None

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """Credentials to listen with; None for plain text."""
        if not self.tls:
            return None
        if self.certificate is None or self.key is None:
            raise ValueError("a server with TLS needs certificate and key")
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.authority,
            require_client_auth=self.authority is not None,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Credentials to connect with; None for plain text."""
        return grpc.ssl_channel_credentials(self.authority, self.key, self.certificate) if self.tls else None

    def allows(self, method: str, authorization: str | bytes | None) -> bool:
        """Whether a call with this `authorization` metadata may reach the method."""
        if self.token is None or method.startswith(OPEN_METHODS):
            return True
        shown = authorization.encode() if isinstance(authorization, str) else (authorization or b"")
        return hmac.compare_digest(shown, f"Bearer {self.token}".encode())

    def check_address(self, address: str) -> None:
        """Raises ValueError where a token would cross a network in plain text."""
        if self.token is not None and not self.tls and not is_local(address):
            raise ValueError(f"{address}: a token needs TLS beyond this host (give certificate, key or authority)")


def is_local(address: str) -> bool:
    """Whether only this host reaches an address to listen on or to call."""
    if address.startswith("unix:"):
        return True
    host = address.rsplit(":", 1)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
