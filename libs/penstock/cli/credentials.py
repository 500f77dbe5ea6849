"""The identities of one run on this host: secrets that `penstock train` makes, in files that its user alone can read.

runs/<name>/secrets/<kind>.token    what the services of a kind show to others; operator.token: what commands show
runs/<name>/secrets/<kind>.nats     the same for its NATS
runs/<name>/secrets/callers.json    whom services know: no secret, and it opens nothing
runs/<name>/secrets/page.key        a browser shows it once and keeps it as a cookie
"""

import pathlib

import yaml

from penstock.access import KINDS, METHODS, Callers, Identity, Login, service_of, subjects_of
from penstock.bus import Files, RunNames, User
from penstock.recipes.sections import Security as Section
from penstock.rpc import Certificates, Security
from penstock.supervisor.plan import CALLERS, PAGE_KEY, nats_of, token_of
from penstock.system.secret_files import made_secret, write_secret

OPERATOR = "operator"


def make_secrets(folder: pathlib.Path, run: str) -> None:
    """Makes those of the run in `folder` that it does not have yet. Raises OSError."""
    identities = [_identity(folder / token_of(kind), kind) for kind in KINDS]
    for kind in subjects_of(RunNames(run)):
        _identity(folder / nats_of(kind), kind)
    made_secret(folder / PAGE_KEY)
    write_secret(folder / CALLERS, Callers.of(identities, {service_of(method) for method in METHODS}).text())


def security_of(folder: pathlib.Path) -> Security:
    """How a command shows itself to the services of the run in `folder`. Raises OSError, ValueError."""
    return Security(identity=_identity(folder / token_of(OPERATOR), OPERATOR), certificates=certificates_of(folder))


def certificates_of(folder: pathlib.Path) -> Certificates | None:
    """The operator's, where the run has TLS. Raises OSError, ValueError."""
    section = _section(folder)
    if section.authority is None:
        return None
    certificate, key = section.pair(OPERATOR)
    return Certificates.of_files(authority=section.authority, certificate=certificate, key=key)


def login_of(folder: pathlib.Path) -> Login:
    """How a command shows itself to the run's NATS. Raises OSError, ValueError."""
    secret = _identity(folder / nats_of(OPERATOR), OPERATOR).secret
    held = certificates_of(folder)
    return Login(OPERATOR, secret, held.context() if held is not None else None)


def users_of(folder: pathlib.Path, run: str) -> dict[str, User]:
    """Whom the NATS of a run lets in, and to what. Raises OSError."""
    table = subjects_of(RunNames(run))
    return {
        kind: User(Login(kind, _identity(folder / nats_of(kind), kind).secret), subjects)
        for kind, subjects in table.items()
    }


def nats_files_of(folder: pathlib.Path) -> Files | None:
    """The certificates of the run's NATS; None for plain text."""
    section = _section(folder)
    return Files(*section.pair("nats"), pathlib.Path(section.authority)) if section.authority is not None else None


def page_key_of(folder: pathlib.Path) -> str:
    """What a browser shows the run's page. Raises OSError."""
    return made_secret(folder / PAGE_KEY)


def _identity(path: pathlib.Path, kind: str) -> Identity:
    """What a file says, made with the first call. Raises OSError, or ValueError for another content."""
    found = Identity.parsed(made_secret(path, prefix=f"{kind}:"))
    if found is None or found.kind != kind:
        raise ValueError(f"{path} holds no secret of {kind}; remove it, and the next start makes another")
    return found


def _section(folder: pathlib.Path) -> Section:
    """What the run's recipe says of certificates."""
    path = folder / "recipe.yaml"
    said = yaml.safe_load(path.read_text()) if path.is_file() else {}
    return Section(**said.get("security", {}))
