"""Certificates of a run's services."""

import pathlib

from pydantic import Field

from penstock.recipes.sections.base import Section


class Security(Section):
    """Mutual TLS between the run's services, its NATS and its commands. Tokens the run makes by itself, always."""

    authority: str | None = Field(
        default=None, description="PEM file of the authority that signs the run's certificates; plain text if absent"
    )
    certificates: str | None = Field(
        default=None,
        description="folder of KIND.crt and KIND.key in PEM for every kind of service, nats and operator; the URI of "
        "each certificate names its kind (spiffe://penstock/KIND)",
    )

    def pair(self, kind: str) -> tuple[pathlib.Path, pathlib.Path]:
        """Where the certificate and key of a kind lie. Only for a section that has both of its keys."""
        folder = pathlib.Path(self.certificates or "")
        return folder / f"{kind}.crt", folder / f"{kind}.key"
