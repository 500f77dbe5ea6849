"""Whom the programs of a worker process believe over TLS: the run's authority too, which signs its gateways.

Agents are programs of others, and bring clients of their own: OpenSSL's and requests' variables reach them all.
"""

from __future__ import annotations

import pathlib
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.rpc import Security

VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


@contextmanager
def trusting(security: Security) -> Iterator[dict[str, str]]:
    """The variables, for the block; none where the run has no authority of its own. Raises OSError."""
    held = security.certificates
    if held is None or held.authority is None:
        yield {}
        return
    usual = ssl.get_default_verify_paths().cafile
    others = pathlib.Path(usual).read_text() if usual is not None else ""
    with tempfile.NamedTemporaryFile("w", prefix="penstock-authorities-", suffix=".pem") as file:
        file.write(f"{others}\n{held.authority.read_text()}")
        file.flush()
        yield dict.fromkeys(VARIABLES, file.name)
