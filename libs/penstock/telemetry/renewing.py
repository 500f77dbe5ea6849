"""A TLS listener of the standard library that shows the certificate that its files hold now."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

logger = logging.getLogger(__name__)


def renew_with_files(listener: ssl.SSLSocket, certificate: Path, key: Path, authority: Path | None) -> None:
    """Has every handshake look at the files. Files that cannot be used leave the former certificate in use."""
    files = [path for path in (certificate, key, authority) if path is not None]
    shown, stamp = listener.context, _stamp(files)

    def look(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        nonlocal shown, stamp
        if (now := _stamp(files)) != stamp:
            stamp = now
            try:
                renewed = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                renewed.load_cert_chain(certificate, key)
                if authority is not None:
                    renewed.load_verify_locations(authority)
                    renewed.verify_mode = ssl.CERT_REQUIRED
                shown = renewed
            except (OSError, ssl.SSLError) as error:
                logger.error("the certificate %s changed and cannot be used: %s", certificate, error)
        if shown is not context:
            connection.context = shown

    listener.context.sni_callback = look


def _stamp(paths: list[Path]) -> list[tuple[int, int]]:
    """What changes when one of them is written or replaced."""
    found = [path.stat() for path in paths if path.exists()]
    return [(each.st_ino, each.st_mtime_ns) for each in found]
