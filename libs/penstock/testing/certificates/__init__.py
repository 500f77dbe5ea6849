"""Certificates for tests of TLS, made by openssl on the spot: nothing that could be trusted lies in the repository."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

HERE = ("127.0.0.1",)


def issue(
    directory: Path,
    name: str,
    issuer: str = "",
    *,
    uri: str = "",
    days: int = 1,
    addresses: Sequence[str] = HERE,
    names: Sequence[str] = (),
) -> tuple[Path, Path]:
    """A certificate for these IP addresses (and `uri`, DNS names) and its key in PEM, valid for some days, signed by
    `issuer` (made before in the same directory) or by itself. Skips the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        str(days),
    ]
    command += ["-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate)]
    if issuer:
        command += ["-CA", str(directory / f"{issuer}.crt"), "-CAkey", str(directory / f"{issuer}.key")]
        known = [*(f"IP:{address}" for address in addresses), *(f"DNS:{each}" for each in names)]
        known += [f"URI:{uri}"] if uri else []
        command += ["-addext", f"subjectAltName={','.join(known)}", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def issue_kinds(directory: Path, *kinds: str, addresses: Sequence[str] = HERE, names: Sequence[str] = ()) -> Path:
    """An authority, and for each kind a certificate of it whose URI names the kind; gives the authority's."""
    authority, _ = issue(directory, "ca")
    for kind in kinds:
        issue(directory, kind, "ca", uri=f"spiffe://penstock/{kind}", addresses=addresses, names=names)
    return authority
