"""What a recipe says of rewards that could not be meant: credentials that nobody sees or can use, bounds that cross."""

import os
from collections.abc import Iterator

from penstock.recipes.recipe import Recipe
from penstock.recipes.sections import Credentials


def reward_problems(recipe: Recipe) -> list[str]:
    """A sentence for each file that cannot be read, each half of a pair, credentials that nobody would see, and bounds
    between which nothing lies."""
    problems = [
        f"environment.rewards[{i}].least: {reward.least:g} is above greatest {reward.greatest:g}"
        for environment in recipe.environments
        for i, reward in enumerate(environment.rewards)
        if reward.least is not None and reward.greatest is not None and reward.least > reward.greatest
    ]
    for key, address, credentials in _all(recipe):
        given = {name: path for name, path in credentials.model_dump().items() if path is not None}
        if given and address is None:
            problems.append(f"{key}: is for another team's service, and there is no address")
        for name, path in given.items():
            if not os.path.isfile(path) or not os.access(path, os.R_OK):
                problems.append(f"{key}.{name}: no file {path!r} that can be read")
        if (credentials.certificate is None) != (credentials.key is None):
            problems.append(f"{key}: certificate and key belong together")
        tls = credentials.certificate or credentials.authority
        if address is not None and credentials.token_file and not tls and not _is_loopback(address):
            problems.append(f"{key}.token_file: would cross the network to {address} in plain text; give an authority")
    return problems


def _all(recipe: Recipe) -> Iterator[tuple[str, str | None, Credentials]]:
    for environment in recipe.environments:
        yield "environment.credentials", environment.address, environment.credentials
        for i, reward in enumerate(environment.rewards):
            yield f"environment.rewards[{i}].credentials", reward.address, reward.credentials


def _is_loopback(address: str) -> bool:
    return address.rpartition(":")[0].strip("[]") in ("localhost", "127.0.0.1", "::1") or address.startswith("unix:")
