"""`penstock secrets`: a run's identities, for services that are started by hand on several hosts."""

from penstock.bus import users_section
from penstock.cli.credentials import make_secrets, users_of
from penstock.cli.words import DEFAULT_RUNS, RunName, Runs
from penstock.names import RunNames
from penstock.supervisor.plan import SECRETS
from penstock.system.secret_files import write_secret
from penstock.terminal import console, failed, plain

NATS_USERS = SECRETS / "nats-users.conf"


def secrets(run: RunName, runs: Runs = DEFAULT_RUNS) -> None:
    """Make a run's identities without starting it: tokens of every kind, whom services know, users of NATS."""
    try:
        RunNames(run)
        make_secrets(runs / run, run)
        write_secret(runs / run / NATS_USERS, users_section(users_of(runs / run, run)))
    except (OSError, ValueError) as error:
        raise failed(f"the identities of {run!r} cannot be made: {error}") from error
    for path in sorted((runs / run / SECRETS).iterdir()):
        console.print(plain(path))
