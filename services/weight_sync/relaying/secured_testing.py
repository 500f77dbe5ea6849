"""What the processes of a run show each other in tests: nothing, or certificates and secrets of their kinds."""

import pathlib
from collections.abc import Sequence

from penstock.access import METHODS, Callers, Identity, Kind, Login, service_of, subjects_of
from penstock.bus import Files, RunNames, User
from penstock.rpc import Certificates, Security
from penstock.testing.certificates import issue_kinds

KINDS: tuple[Kind, ...] = ("weight_sync", "relay", "generation", "learner", "rollout", "operator")


class Nothing:
    """They show nothing."""

    def flags(self, kind: str) -> Sequence[str]:
        """Of a process of this kind."""
        return ()

    def security(self, kind: str) -> Security:
        """Of a caller of this kind."""
        return Security()


class Secured(Nothing):
    """Mutual TLS and secrets, in files of `folder`."""

    def __init__(self, folder: pathlib.Path, names: RunNames) -> None:
        folder.mkdir()
        self._folder, self._table = folder, subjects_of(names)
        self.authority = issue_kinds(folder, *KINDS, "nats")
        identities = [Identity(kind, f"secret-of-{kind}") for kind in KINDS]
        for each in identities:
            (folder / f"{each.kind}.token").write_text(f"{each.kind}:{each.secret}")
        callers = Callers.of(identities, {service_of(method) for method in METHODS})
        (folder / "callers.json").write_text(callers.text())

    @property
    def nats(self) -> Files:
        """Of the run's NATS."""
        return Files(self._folder / "nats.crt", self._folder / "nats.key", self.authority)

    @property
    def users(self) -> dict[str, User]:
        """Whom it lets in."""
        return {kind: User(self.login(kind), self._table[kind]) for kind in KINDS}

    def login(self, kind: str) -> Login:
        """Of a kind to NATS: the text of its token's file, which is USER:PASSWORD."""
        certificates = self.security(kind).certificates
        assert certificates is not None
        return Login.parsed((self._folder / f"{kind}.token").read_text(), certificates.context())

    def flags(self, kind: str) -> Sequence[str]:
        paths = {
            "--token-file": f"{kind}.token",
            "--callers-file": "callers.json",
            "--nats-token-file": f"{kind}.token",
            "--tls-ca": self.authority.name,
            "--tls-certificate": f"{kind}.crt",
            "--tls-key": f"{kind}.key",
        }
        return [word for flag, name in paths.items() for word in (flag, str(self._folder / name))]

    def security(self, kind: str, *, certificate: str = "") -> Security:
        """certificate: of another kind."""
        name = certificate or kind
        found = Certificates.of_files(
            authority=self.authority, certificate=self._folder / f"{name}.crt", key=self._folder / f"{name}.key"
        )
        return Security(certificates=found, identity=Identity.parsed((self._folder / f"{kind}.token").read_text()))
