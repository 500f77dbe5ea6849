"""Certificates in files, read again when the files change: whoever renews them restarts nothing.

A server looks with every handshake, a channel with every call (`penstock.rpc.renewing`), and who starts NATS looks for
it. Files that changed into something that cannot be used leave what was there in use, with one line in the log.

Invariants (test names): a server shows the new certificate after its files changed; files that are half written change
nothing; a certificate that ends soon is told of.
"""

from __future__ import annotations

import logging
import pathlib
import ssl
import time
from dataclasses import dataclass
from typing import Any

import grpc

from penstock.rpc.expiry import ends_at
from penstock.telemetry import metrics

logger = logging.getLogger(__name__)

SOON_SECONDS = 14 * 86400.0
"""A certificate that ends in less is told of whenever its file is read, and once a day."""

_ends = metrics.gauge(metrics.CERTIFICATE_ENDS, "When a certificate in use ends, in seconds of Unix time.", ["file"])


@dataclass(frozen=True, repr=False)
class Pem:
    """What the files held: PEM of the authority, of this side's chain, and of its key."""

    authority: bytes | None
    certificate: bytes | None
    key: bytes | None


class Certificates:
    """Made by `of_files`, which reads them once."""

    def __init__(
        self, authority: pathlib.Path | None, certificate: pathlib.Path | None, key: pathlib.Path | None
    ) -> None:
        self.authority, self.certificate, self.key = authority, certificate, key
        self._stamp = self._stamped()
        self.pem = self._read()
        self.changes = 0
        self._warned_at = 0.0
        self._warn()

    @classmethod
    def of_files(
        cls,
        *,
        authority: str | pathlib.Path | None = None,
        certificate: str | pathlib.Path | None = None,
        key: str | pathlib.Path | None = None,
    ) -> Certificates:
        """Raises OSError, or ValueError, which names the file, for half of a pair and what is no PEM."""
        if (certificate is None) != (key is None):
            lonely = certificate if certificate is not None else key
            raise ValueError(f"{lonely}: certificate and key belong together")
        paths = (pathlib.Path(each) if each is not None else None for each in (authority, certificate, key))
        return cls(*paths)

    @property
    def mutual(self) -> bool:
        """Whether a server demands client certificates."""
        return self.authority is not None and self.certificate is not None

    def refresh(self) -> bool:
        """Looks at the files; whether they have changed into something new that can be used."""
        now = time.time()
        if now - self._warned_at > 86400:
            self._warn()
        if (stamp := self._stamped()) == self._stamp:
            return False
        self._stamp = stamp
        try:
            self.pem = self._read()
        except (OSError, ValueError) as error:
            logger.error("certificates changed and cannot be used; the former ones stay in use: %s", error)
            return False
        self.changes += 1
        logger.info("certificates were read again", extra={"certificate": str(self.certificate)})
        self._warn()
        return True

    def server_credentials(self) -> grpc.ServerCredentials:
        """To listen with; each handshake looks at the files. Raises ValueError without certificate and key."""
        if self.certificate is None:
            raise ValueError(f"{self.authority}: a server with TLS needs certificate and key, too")

        def fetch() -> Any:
            return self._configuration() if self.refresh() else None

        return grpc.dynamic_ssl_server_credentials(
            self._configuration(), fetch, require_client_authentication=self.mutual
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """To connect with, as the files are now."""
        return grpc.ssl_channel_credentials(self.pem.authority, self.pem.key, self.pem.certificate)

    def context(self) -> ssl.SSLContext:
        """For a client that is not gRPC: NATS, or the monitoring page of one."""
        found = ssl.create_default_context(cafile=str(self.authority) if self.authority is not None else None)
        if self.certificate is not None:
            found.load_cert_chain(self.certificate, self.key)
        return found

    def server_context(self) -> ssl.SSLContext:
        """For a server that is not gRPC, as the files are now. Raises ValueError without certificate and key."""
        if self.certificate is None:
            raise ValueError(f"{self.authority}: a server with TLS needs certificate and key, too")
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        found.minimum_version = ssl.TLSVersion.TLSv1_2
        found.load_cert_chain(self.certificate, self.key)
        if self.mutual:
            found.verify_mode = ssl.CERT_REQUIRED
            found.load_verify_locations(self.authority)
        return found

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = [(self.pem.key or b"", self.pem.certificate or b"")]
        return grpc.ssl_server_certificate_configuration(pair, root_certificates=self.pem.authority)

    def _stamped(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(path) for path in (self.authority, self.certificate, self.key))

    def _read(self) -> Pem:
        """gRPC itself says of a wrong file that the address is taken: the standard library looks first."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        content = [path.read_bytes() if path is not None else None for path in self._paths()]
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except ssl.SSLError as error:
            words = f"{self.certificate} and {self.key} are no certificate and its key in PEM: {error.reason}"
            raise ValueError(words) from error
        try:
            if self.authority is not None:
                context.load_verify_locations(self.authority)
        except ssl.SSLError as error:
            raise ValueError(f"{self.authority} is no certificate in PEM: {error.reason}") from error
        return Pem(*content)

    def _paths(self) -> tuple[pathlib.Path | None, ...]:
        return self.authority, self.certificate, self.key

    def _warn(self) -> None:
        """Tells when what is in use ends."""
        self._warned_at = time.time()
        for path, pem in ((self.certificate, self.pem.certificate), (self.authority, self.pem.authority)):
            if path is None or pem is None:
                continue
            end = ends_at(pem)
            _ends.labels(str(path)).set(end)
            left = end - self._warned_at
            if left < SOON_SECONDS:
                words = f"ended {-left / 86400:.1f} days ago" if left < 0 else f"ends in {left / 86400:.1f} days"
                logger.warning("the certificate %s %s; renew the file, nothing needs a restart", path, words)


def _stamp(path: pathlib.Path | None) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if found is not None else None
