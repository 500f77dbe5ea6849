"""Against the library, with an environment package as people write them (examples/verifiers_sorting)."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import verifiers as vf
from datasets import Dataset

from penstock.sdk.agents import AgentFailed, Task
from penstock.sdk.samples import Invalid, Scored
from services.environment_adapters.adapting import Served, problem
from services.environment_adapters.policy_testing import policy
from services.environment_adapters.unknown import Unknown
from services.environment_adapters.verifiers import made

EXAMPLE = Path(__file__).parents[2] / "examples" / "verifiers_sorting"


@pytest.fixture(autouse=True)
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package, as though it were installed."""
    monkeypatch.syspath_prepend(str(EXAMPLE))


def rows(count: int) -> list[dict[str, str]]:
    import verifiers_sorting  # type: ignore[import-not-found]

    return list(verifiers_sorting.load_environment().get_dataset(count))


async def test_its_rollout_calls_the_policy_and_its_rubric_is_the_reward() -> None:
    (row,) = rows(1)
    async with policy(["?", row["answer"]]) as (asked, endpoint):
        result = await made("verifiers-sorting", {}).run(Task({"index": 0}), endpoint, 30)
    assert isinstance(result, Scored) and result.value == 1.0
    assert result.components["sorted_in_the_end"] == 1.0 and result.components["sorted_at_once"] == 0.0
    first, second = (each["messages"] for each in asked.asked)
    assert [m["content"] for m in first] == [row["question"]]
    assert second[:1] == first and second[1]["content"] == "?" and second[2]["content"] == "0"
    assert not {"temperature", "top_p"} & asked.asked[0].keys(), "the recipe's sampling holds"


async def test_rows_that_are_measured_with_are_its_evaluation_set() -> None:
    import verifiers_sorting

    row = verifiers_sorting.load_environment().get_eval_dataset()[3]
    async with policy([row["answer"]]) as (asked, endpoint):
        result = await made("verifiers-sorting", {}).run(Task({"index": 3, "held_out": True}), endpoint, 30)
    assert isinstance(result, Scored) and result.value == 1.0 and len(asked.asked) == 1


async def test_a_package_without_an_evaluation_set_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifiers.Environment.build_eval_dataset", lambda self: None)
    async with policy(["?"]) as (asked, endpoint):
        result = await made("verifiers-sorting", {}).run(Task({"index": 3, "held_out": True}), endpoint, 30)
    assert isinstance(result, Invalid) and "has no evaluation set" in result.reason and not asked.asked


def test_a_package_without_an_evaluation_set_is_refused_where_it_is_measured_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = Served("verifiers:verifiers-sorting", {}, measured=True)
    assert problem(named) is None
    load = vf.load_environment

    def without(identity: str, **settings: object) -> vf.Environment:
        made = load(identity, **settings)
        made.eval_dataset = made.eval_dataset_source = None
        return made

    monkeypatch.setattr("verifiers.load_environment", without)
    assert problem(named) == "data.eval: verifiers-sorting has no evaluation set; leave it out, or name a file of rows"
    assert problem(Served("verifiers:verifiers-sorting")) is None, "it may be trained on"


async def test_a_rollout_that_fails_has_no_reward() -> None:
    async with policy([]) as (_, endpoint):  # the policy has no answer: status 500
        with pytest.raises(AgentFailed):
            await made("verifiers-sorting", {}).run(Task({"index": 0}), endpoint, 30)


def test_settings_are_those_of_load_environment() -> None:
    made("verifiers-sorting", {"longest": 3})
    with pytest.raises(Unknown, match=r"environment.settings: no 'longst' \(did you mean longest\?\)"):
        made("verifiers-sorting", {"longst": 3})


def test_a_rubric_that_compares_a_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def best(completions: list[object], **_: object) -> list[float]:
        return [0.0 for _ in completions]

    def load_environment() -> vf.Environment:
        data = Dataset.from_list([{"question": "q", "answer": "a"}])
        return vf.SingleTurnEnv(dataset=data, rubric=vf.Rubric(funcs=[best]))

    module = types.ModuleType("compares")
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    module.load_environment = load_environment  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "compares", module)
    with pytest.raises(Unknown, match="judges a group's rollouts together"):
        made("compares", {})


def test_a_package_that_is_not_there_is_said() -> None:
    with pytest.raises(Unknown, match="no environment package of verifiers 'sortng' here"):
        made("sortng", {})
