"""What a recipe says of rewards that could not be meant: credentials that nobody sees or can use, bounds that cross,
models that are not there, judges that cannot be read."""

import os
import re
from collections.abc import Iterator

from penstock.recipes.checks.paths import model_problems, positions
from penstock.recipes.recipe import Recipe
from penstock.recipes.sections import Credentials, Judge


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


def served_problems(recipe: Recipe) -> list[str]:
    """A sentence for each reward that several would give, or whose model is not there or cannot be asked."""
    problems = []
    for reward in recipe.rewards():
        key = f"environment.rewards {reward.name}"
        given = [name for name in ("address", "model", "judge") if getattr(reward, name) is not None]
        if len(given) > 1:
            problems.append(f"{key}: has both {' and '.join(given)}; leave one out")
        if reward.model is not None:
            problems += model_problems(f"{key}: model.path", reward.model.path)
        if reward.judge is not None:
            problems += judge_problems(f"{key}: judge", reward.judge)
        if (reward.model or recipe.reward_models.get(reward.name)) != recipe.reward_models.get(reward.name) or (
            reward.judge or recipe.judges.get(reward.name)
        ) != recipe.judges.get(reward.name):
            problems.append(f"{key}: names two models; give each a name of its own")
    return problems


def judge_problems(key: str, judge: Judge) -> list[str]:
    """A sentence for each key of a judge that could not work."""
    problems = model_problems(f"{key}.path", judge.path)
    try:
        if re.compile(judge.read).groups < 1:
            problems.append(f"{key}.read: {judge.read!r} has no group: put the mark into brackets, (\\d+)")
    except re.error as error:
        problems.append(f"{key}.read: {judge.read!r} is no regular expression: {error}")
    if "{completion}" not in judge.prompt:
        problems.append(f"{key}.prompt: has no {{completion}}: it would judge without the answer")
    least, greatest = judge.marks
    if not least < greatest:
        problems.append(f"{key}.marks: {least:g} is not below {greatest:g}")
    if judge.max_tokens >= judge.max_context:
        problems.append(f"{key}.max_tokens: {judge.max_tokens} leaves no room in max_context {judge.max_context}")
    most = positions(judge.path)
    if most is not None and judge.max_context > most:
        problems.append(f"{key}.max_context: {judge.max_context} is above the {most} that the model reads")
    return problems


def _all(recipe: Recipe) -> Iterator[tuple[str, str | None, Credentials]]:
    for environment in recipe.environments:
        yield "environment.credentials", environment.address, environment.credentials
        for i, reward in enumerate(environment.rewards):
            yield f"environment.rewards[{i}].credentials", reward.address, reward.credentials


def _is_loopback(address: str) -> bool:
    return address.rpartition(":")[0].strip("[]") in ("localhost", "127.0.0.1", "::1") or address.startswith("unix:")
