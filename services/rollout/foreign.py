"""What another team's reward or environment is shown: its own credentials, never the run's."""

import pathlib

from penstock.recipes.sections import Credentials
from penstock.rpc import Security


def security_of(credentials: Credentials) -> Security:
    """How this side shows itself to the service. Raises OSError or ValueError for files that cannot be used."""

    def content(path: str | None) -> bytes | None:
        return pathlib.Path(path).read_bytes() if path is not None else None

    token = content(credentials.token_file)
    return Security(
        token.decode().strip() if token is not None else None,
        content(credentials.certificate),
        content(credentials.key),
        content(credentials.authority),
    )
