"""`verifiers:<environment id>`: an environment package of verifiers; its own rollout calls the policy.

A task's number is a row of the environment's data set, or of its evaluation set. The reward is the rubric's total; the
rubric's functions are its components. Settings are the arguments of the package's `load_environment`.

Not mapped: rubrics that compare a group's rollouts, advantages that a rubric gives, sampling arguments of the
environment, the tasksets of `verifiers.v1`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import verifiers
from openai import AsyncOpenAI
from packaging.requirements import InvalidRequirement, Requirement
from verifiers.clients import OpenAIChatCompletionsClient
from verifiers.utils.env_utils import env_module_name, import_env_module

from penstock.sdk.agents import Agent, Endpoint, Task
from penstock.sdk.samples import Invalid, Scored
from services.environment_adapters.tasks import is_held_out, number_of
from services.environment_adapters.unknown import Unknown, check_known, check_settings


def check(identity: str, settings: Mapping[str, Any]) -> None:
    """Raises Unknown."""
    module = env_module_name(identity)
    if not module.isidentifier() or importlib.util.find_spec(module) is None:
        check_known("environment package of verifiers", identity, _installed())
    load = getattr(import_env_module(identity), "load_environment", None)
    if load is None:
        raise Unknown(f"{module} has no load_environment: it is no environment package of verifiers")
    check_settings(load, settings)


def check_measured(identity: str, settings: Mapping[str, Any]) -> None:
    """Raises Unknown where the package has no evaluation set: verifiers would take rows that are trained on."""
    try:
        environment = verifiers.load_environment(identity, **settings)
    except Exception as error:  # somebody's code
        raise Unknown(f"{identity}: load_environment raised {type(error).__name__}: {error}"[:300]) from error
    if environment.eval_dataset is None and environment.eval_dataset_source is None:
        raise Unknown(f"data.eval: {identity} has no evaluation set; leave it out, or name a file of rows")


def made(identity: str, settings: Mapping[str, Any]) -> Agent:
    """The agent of a package. Raises Unknown."""
    check(identity, settings)
    environment = verifiers.load_environment(identity, **settings)
    if environment.requires_group_rollouts or environment.provides_advantages:
        raise Unknown(f"{identity}: its rubric judges a group's rollouts together; here each sample has its own reward")

    async def play(task: Task, endpoint: Endpoint) -> Scored | Invalid:
        held_out = is_held_out(task.row)
        if held_out and environment.build_eval_dataset() is None:  # verifiers would take those that are trained on
            return Invalid(f"{identity} has no evaluation set; leave data.eval out")
        rows = environment.get_eval_dataset() if held_out else environment.get_dataset()
        row: Any = rows[number_of(task.row) % len(rows)]
        async with AsyncOpenAI(base_url=endpoint.base_url, api_key=endpoint.key) as client:
            played = await environment.run_rollout(row, OpenAIChatCompletionsClient(client), "policy", {})
        if played["error"] is not None:
            raise RuntimeError(f"{identity}: {played['error']}")
        parts = {name: float(value) for name, value in (played["metrics"] or {}).items()}
        return Scored(float(played["reward"]), parts)

    return Agent(play, identity, f"verifiers' {identity}.", "endpoint")


def _installed() -> list[str]:
    """Packages here that want verifiers, which environment packages do."""
    found = []
    for each in metadata.distributions():
        for text in each.requires or ():
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            if wanted.name == "verifiers" and wanted.marker is None:
                found.append(each.metadata["Name"])
    return sorted(set(found))
