"""A run of several hosts that trusts nobody: certificates and identities as docs/security.md has them made."""

import pathlib
from collections.abc import Sequence
from typing import Any

from penstock.access import KINDS
from penstock.bus import Files, User
from penstock.cli.credentials import make_secrets, users_of
from penstock.supervisor.plan import CALLERS, nats_of, token_of
from penstock.testing.certificates import issue, issue_kinds


class Secured:
    """What was made for a run in `folder`, which every host has. Services are named below `domain`, NATS by address."""

    def __init__(self, folder: pathlib.Path, run: str, addresses: Sequence[str], domain: str) -> None:
        self.run, self._run, self._pem = folder, run, folder / "certificates"
        self._pem.mkdir(parents=True)
        self._authority = issue_kinds(self._pem, *KINDS, addresses=(), names=[f"*.{domain}"])
        issue(self._pem, "nats", "ca", uri="spiffe://penstock/nats", addresses=addresses)
        make_secrets(folder, run)

    @property
    def recipe(self) -> dict[str, Any]:
        """Its section."""
        return {"authority": str(self._authority), "certificates": str(self._pem)}

    def users(self) -> dict[str, User]:
        """Whom NATS lets in."""
        return users_of(self.run, self._run)

    def files(self) -> Files:
        """What NATS shows and demands."""
        return Files(self._pem / "nats.crt", self._pem / "nats.key", self._authority)

    def tls(self, kind: str) -> list[str]:
        """The certificate of a kind, as flags."""
        pair = [f"--tls-certificate={self._pem / kind}.crt", f"--tls-key={self._pem / kind}.key"]
        return [f"--tls-ca={self._authority}", *pair]

    def login(self, kind: str) -> list[str]:
        """What a kind shows to NATS, as flags."""
        return [*self.tls(kind), f"--nats-token-file={self.run / nats_of(kind)}"]

    def service(self, kind: str) -> list[str]:
        """The flags of a service."""
        identity = [f"--token-file={self.run / token_of(kind)}", f"--callers-file={self.run / CALLERS}"]
        return [*identity, *self.login(kind)]

    def join(self) -> list[str]:
        """The flags of `penstock join`, for processes of any kind: the recipe names each one's certificate."""
        return ["--secrets", str(self.run), *(f"--flag={word}" for word in self.tls("rollout"))]
