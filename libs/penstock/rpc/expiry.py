"""When a certificate ends: the one field of X.509 that the standard library does not tell of a file.

Certificate ::= SEQUENCE { TBSCertificate ::= SEQUENCE {
    [0] version (may be absent), serial, signature, issuer, validity SEQUENCE { notBefore, notAfter }, ...

(RFC 5280, section 4.1)
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
_FORM = {_UTC_TIME: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}


def ends_at(pem: bytes) -> float:
    """Unix time at which the first of the certificates ends. Raises ValueError for what is no certificate."""
    found = [_not_after(ssl.PEM_cert_to_DER_cert(each)) for each in _PEM.findall(pem.decode(errors="replace"))]
    if not found:
        raise ValueError("no certificate")
    return min(found)


def _not_after(der: bytes) -> float:
    _, certificate, _ = _value(der)
    _, fields, _ = _value(certificate)
    kind, _, rest = _value(fields)
    if kind == _VERSION:
        _, _, rest = _value(rest)
    for _ in range(2):  # signature, issuer: what is before stood for the serial
        _, _, rest = _value(rest)
    _, validity, _ = _value(rest)
    _, _, rest = _value(validity)
    kind, text, _ = _value(rest)
    if kind not in _FORM:
        raise ValueError("a certificate without an end")
    return datetime.strptime(text.decode(), _FORM[kind]).replace(tzinfo=UTC).timestamp()


def _value(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first value, and what follows it. Raises ValueError."""
    if len(data) < 2:
        raise ValueError("a certificate that is cut off")
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start])
    if len(data) < start + length:
        raise ValueError("a certificate that is cut off")
    return data[0], data[start : start + length], data[start + length :]
