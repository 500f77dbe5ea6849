"""The identity of one run on this host: secrets that `penstock train` makes, in files that its user alone can read.

runs/<name>/secrets/services.token   every call of the run's services carries it
runs/<name>/secrets/nats.token       every connection to its NATS shows it
runs/<name>/secrets/page.key         a browser shows it once and keeps it as a cookie
"""

import pathlib

from penstock.rpc import Security
from penstock.supervisor.plan import NATS_TOKEN, PAGE_KEY, SERVICES_TOKEN
from penstock.system.secret_files import made_secret


def make_secrets(folder: pathlib.Path) -> None:
    """Makes those of the run in `folder` that it does not have yet. Raises OSError."""
    for path in (SERVICES_TOKEN, NATS_TOKEN, PAGE_KEY):
        made_secret(folder / path)


def security_of(folder: pathlib.Path) -> Security:
    """How a caller shows itself to the services of the run in `folder`. Raises OSError."""
    return Security(token=made_secret(folder / SERVICES_TOKEN))


def nats_token_of(folder: pathlib.Path) -> str:
    """What a connection to the run's NATS shows. Raises OSError."""
    return made_secret(folder / NATS_TOKEN)


def page_key_of(folder: pathlib.Path) -> str:
    """What a browser shows the run's page. Raises OSError."""
    return made_secret(folder / PAGE_KEY)
