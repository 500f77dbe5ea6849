"""A child that dies is started again; one that cannot run fails the run with its last words; none is left behind."""

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from penstock.recipes import resolve
from penstock.supervisor import Service, ServiceFailed, Supervisor, plan
from penstock.supervisor.plan import instances
from penstock.supervisor.supervisor import FIRST_PAUSE
from penstock.system import exits


def service(name: str, code: str, *, ends: bool = False) -> Service:
    return Service(name, "127.0.0.1:1", (sys.executable, "-c", code), ends)


async def until(condition: Callable[[], object], within: float = 20.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_child_has_the_variables_of_its_plan_beside_those_of_here(tmp_path: pathlib.Path) -> None:
    code = "import os; print(os.environ['PENSTOCK_PACKAGES'], os.environ['PATH'], flush=True)"
    given = Service("s", "127.0.0.1:1", (sys.executable, "-c", code), True, {"PENSTOCK_PACKAGES": "mine"})
    await Supervisor(tmp_path).keep([given])
    assert (tmp_path / "s.log").read_text() == f"mine {os.environ['PATH']}\n"


async def test_a_killed_child_is_started_again(tmp_path: pathlib.Path) -> None:
    restarted: list[tuple[str, str]] = []
    supervisor = Supervisor(tmp_path, lambda name, how: restarted.append((name, how)))
    keeping = asyncio.create_task(supervisor.keep([service("s", "import time; time.sleep(600)")]))
    await until(lambda: supervisor.pid("s"))
    first = supervisor.pid("s")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervisor.pid("s") not in (None, first))
    assert restarted == [("s", "was killed by SIGKILL")]
    await supervisor.stop()
    await keeping
    assert supervisor.pid("s") is None


async def test_one_more_that_cannot_be_kept_is_no_end_of_the_others(tmp_path: pathlib.Path) -> None:
    supervisor, lost = Supervisor(tmp_path), list[str]()
    keeping = asyncio.create_task(supervisor.keep([service("s", "import time; time.sleep(600)")]))
    await until(lambda: supervisor.pid("s"))
    supervisor.add(service("t", "import sys; print('no room'); sys.exit(2)"), lost.append)
    await until(lambda: lost == ["t"])
    assert supervisor.pid("s") and not keeping.done()
    await supervisor.stop()
    await keeping


async def test_a_name_that_was_removed_while_it_died_is_kept_once_when_it_comes_again(tmp_path: pathlib.Path) -> None:
    supervisor = Supervisor(tmp_path)
    keeping = asyncio.create_task(supervisor.keep([service("s", "import time; time.sleep(600)")]))
    await until(lambda: supervisor.pid("s"))
    supervisor.add(service("t", "import sys; sys.exit(1)"), lambda name: None)
    await until(lambda: supervisor.restarts.get("t"))  # it waits until it is started again
    await supervisor.remove("t")
    supervisor.add(service("t", f"open({str(tmp_path / 'starts')!r}, 'a').write('x'); import time; time.sleep(600)"))
    await until(lambda: (tmp_path / "starts").is_file() and (tmp_path / "starts").read_text())
    await asyncio.sleep(2 * FIRST_PAUSE)  # in which the first would be back
    assert (tmp_path / "starts").read_text() == "x"
    await supervisor.stop()
    await keeping


async def test_bad_input_is_not_repeated_and_its_last_words_are_the_reason(tmp_path: pathlib.Path) -> None:
    supervisor = Supervisor(tmp_path)
    with pytest.raises(ExceptionGroup) as failure:
        await supervisor.keep([service("s", "import sys; print('no such model'); sys.exit(2)")])
    (reason,) = failure.value.exceptions
    assert isinstance(reason, ServiceFailed) and "s cannot run: no such model" in str(reason)
    assert supervisor.restarts == {}


async def test_a_child_that_dies_at_once_again_and_again_fails_the_run(tmp_path: pathlib.Path) -> None:
    supervisor = Supervisor(tmp_path)
    with pytest.raises(ExceptionGroup) as failure:
        await supervisor.keep([service("s", "raise SystemExit(7)"), service("other", "import time; time.sleep(600)")])
    assert "died 5 times in a row" in str(failure.value.exceptions[0])
    assert supervisor.pid("other") is None


async def test_a_child_that_keeps_lacking_memory_fails_the_run_with_what_to_lower(tmp_path: pathlib.Path) -> None:
    told: list[str] = []
    supervisor = Supervisor(tmp_path, lambda name, how: told.append(how))
    starved = service("generation-0", f"raise SystemExit({exits.OUT_OF_MEMORY})")
    with pytest.raises(ExceptionGroup) as failure:
        await supervisor.keep([starved])
    words = "was killed by the kernel for lack of memory (lower generation.memory_gib or generation.max_running)"
    assert str(failure.value.exceptions[0]) == f"generation-0 {words} 3 times" and told == [words] * 2


async def test_the_end_of_work_is_not_a_death(tmp_path: pathlib.Path) -> None:
    supervisor = Supervisor(tmp_path)
    keeping = asyncio.create_task(supervisor.keep([service("learner", "pass", ends=True)]))
    await asyncio.wait_for(supervisor.ended(), 20)
    await keeping
    assert supervisor.restarts == {}


def test_children_die_with_their_parent_also_by_kill_9(tmp_path: pathlib.Path) -> None:
    program = f"""
import asyncio, pathlib, sys
from penstock.supervisor import Service, Supervisor
asyncio.run(Supervisor(pathlib.Path({str(tmp_path)!r})).keep(
    [Service("s", "127.0.0.1:1", (sys.executable, "-c", "import os,time; print(os.getpid(),flush=1); time.sleep(60)"))]
))
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    log = tmp_path / "s.log"
    end = time.monotonic() + 20
    while not (log.exists() and log.read_text().strip()) and time.monotonic() < end:
        time.sleep(0.02)
    child = int(log.read_text())
    parent.kill()
    parent.wait()
    while pathlib.Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not pathlib.Path(f"/proc/{child}").exists()


def test_an_agents_run_has_gateways(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "train.jsonl").write_text("{}\n")
    recipe = resolve(
        {
            "run": "r",
            "model": {"path": str(tmp_path)},
            "data": {"train": str(tmp_path / "train.jsonl")},
            "environment": {"name": "sorting_agent", "agent": True},
            "algorithm": {"steps": 1},
            "gateway": {"replicas": 2},
        }
    )
    names = instances(recipe)
    assert {"gateway-0", "gateway-1", "environment-0"} <= set(names)
    services = plan(recipe, tmp_path, "nats://h:1", {name: "127.0.0.1:7000" for name in names})
    (gateway, *_) = [each for each in services if each.name == "gateway-0"]
    assert gateway.command[gateway.command.index("--recipe") + 1] == str(tmp_path / "recipe.yaml")


def test_the_plan_names_every_service_and_the_run_in_which_it_finds_the_others(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "train.jsonl").write_text("{}\n")
    recipe = resolve(
        {
            "run": "r",
            "model": {"path": str(tmp_path)},
            "data": {"train": str(tmp_path / "train.jsonl")},
            "environment": {
                "name": "sort_characters",
                "rewards": [
                    {"name": "sort_characters"},
                    {"name": "helpful", "model": {"path": str(tmp_path), "dtype": "bfloat16"}},
                    {"name": "kind", "judge": {"path": str(tmp_path), "replicas": 2}},
                ],
            },
            "algorithm": {"steps": 1},
            "generation": {"replicas": 2},
            "packages": {"folder": str(tmp_path / "packages")},
        }
    )
    names = instances(recipe)
    addresses = {name: f"127.0.0.1:{7000 + i}" for i, name in enumerate(names)}
    services = {s.name: s for s in plan(recipe, tmp_path, "nats://127.0.0.1:4222", addresses)}
    assert list(services) == names
    for name, each in services.items():
        words = " ".join(each.command)
        assert "--nats nats://127.0.0.1:4222" in words and "--run r " in words and f"--name {name} " in words
        assert not any(other in words for peer, other in addresses.items() if peer != name)
    model = " ".join(services["reward_model-0"].command)
    assert f"--reward helpful --model {tmp_path} --dtype bfloat16" in model
    for judge in ("judge-0", "judge-1"):
        words = " ".join(services[judge].command)
        assert "--part judge --serves kind" in words and f"--model {tmp_path}" in words
    assert services["learner"].ends and not services["rollout-0"].ends
    given = {name for name, each in services.items() if "PENSTOCK_PACKAGES" in each.variables}
    assert given == {"environment-0", "coordinator"}, "nobody else imports what others wrote"
    variables = services["coordinator"].variables
    assert variables["PENSTOCK_PACKAGES"] == str(tmp_path / "packages" / "site")
    assert variables["PYTHONPATH"].split(os.pathsep)[-1] == variables["PENSTOCK_PACKAGES"]
