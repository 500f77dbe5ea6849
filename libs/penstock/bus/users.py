"""Whom a NATS server of ours lets in, and with which certificates, as its configuration says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.access import Login, Subjects


@dataclass(frozen=True, repr=False)
class User:
    """One whom a server lets in."""

    login: Login
    subjects: Subjects


@dataclass(frozen=True)
class Files:
    """PEM files of a server that demands a client certificate of `authority`."""

    certificate: Path
    key: Path
    authority: Path


def users_section(users: Mapping[str, User]) -> str:
    """The part of a server's configuration that says whom it lets in, and to what; empty: everybody, to everything."""
    if not users:
        return ""
    lines = [
        json.dumps(
            {
                "user": each.login.user,
                "password": each.login.secret,
                "permissions": {
                    "publish": {"allow": list(each.subjects.publish)},
                    "subscribe": {"allow": list(each.subjects.subscribe)},
                },
            }
        )
        for each in users.values()
    ]
    return "authorization { users: [\n  " + ",\n  ".join(lines) + "\n] }\n"


def tls_section(files: Files | None) -> str:
    """The part that says which certificates it shows and demands."""
    if files is None:
        return ""
    paths = {"cert_file": files.certificate, "key_file": files.key, "ca_file": files.authority}
    said = "".join(f"{key}: {json.dumps(str(path.absolute()), ensure_ascii=False)}, " for key, path in paths.items())
    return f"tls {{ {said}verify: true, timeout: 5 }}\n"
