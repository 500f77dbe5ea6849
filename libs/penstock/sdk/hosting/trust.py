"""Whom the programs of a worker process believe over TLS: the run's authority too, which signs its gateways.

Agents are programs of others, and bring clients of their own: OpenSSL's and requests' variables reach them all.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pathlib
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.rpc import Security

logger = logging.getLogger(__name__)
VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


@contextmanager
def trusting(security: Security) -> Iterator[dict[str, str]]:
    """The variables, for the block; none where the run has no authority of its own. Raises OSError."""
    held = security.certificates
    if held is None or held.authority is None:
        yield {}
        return
    with tempfile.NamedTemporaryFile("w", prefix="penstock-authorities-", suffix=".pem") as file:
        file.write(f"{_public()}\n{held.authority.read_text()}")
        file.flush()
        yield dict.fromkeys(VARIABLES, file.name)


def _public() -> str:
    """The authorities that programs here believe by themselves: those that Python names, a file or a folder of them,
    else those that come with the clients of others (certifi). Raises OSError."""
    usual = ssl.get_default_verify_paths()
    if usual.cafile is not None:
        return pathlib.Path(usual.cafile).read_text()
    if usual.capath is not None:
        found = {path.resolve() for path in pathlib.Path(usual.capath).iterdir() if path.is_file()}
        if texts := [
            text for path in sorted(found) if "BEGIN CERTIFICATE" in (text := path.read_text(errors="replace"))
        ]:
            return "\n".join(texts)
    if importlib.util.find_spec("certifi") is not None:
        return pathlib.Path(importlib.import_module("certifi").where()).read_text()
    logger.warning("no public authorities are known here: agents believe the run's alone")
    return ""
