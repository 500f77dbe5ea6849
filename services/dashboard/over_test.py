"""A run that is over is looked at from its folder: by commands, by its page, and beside other runs."""

import asyncio
import contextlib
import json
import pathlib
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar
from typing import Any

import pytest
import pytest_asyncio
import yaml

from penstock import cli
from penstock.bus import EmbeddedServer, RunNames, connect
from services.dashboard import run_testing

RUN = "sort-characters-grpo"
HOSTILE = "<b>\x1b[31m"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a finished run, and one of another rate that has metrics alone."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / RUN / "logs").mkdir(parents=True)
    recipe = run_testing.write_recipe(folder / RUN)
    nats = folder / RUN / "nats"
    async with EmbeddedServer(nats, folder / "nats.log") as server:
        async with connect(server.url, name="test", monitor_url=server.monitor_url) as bus:
            await run_testing.write_ledger(bus, RunNames(RUN))
            await run_testing.write_log(bus, RunNames(RUN), folder / RUN / "model", HOSTILE)
    summary = {"status": "done", "reason": "", "steps": 3, "reward_first": 0.1, "reward_last": 0.9, "alerts": []}
    (folder / RUN / "summary.json").write_text(json.dumps(summary))
    other = folder / "other"
    other.mkdir()
    changed = yaml.safe_load(recipe.read_text()) | {"run": "other", "learner": {"optimizer": {"learning_rate": 1e-3}}}
    (other / "recipe.yaml").write_text(yaml.safe_dump(changed))
    for name in (RUN, "other"):
        rows = [{"step": i + 1, "rl.reward.mean": 0.1 * i, "rl.policy.entropy": None} for i in range(5)]
        (folder / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


async def penstock(*words: object) -> tuple[int, str, str]:
    command = (sys.executable, "-m", cli.__name__, *map(str, words))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Browser:
    """Asks one page and keeps its cookie."""

    def __init__(self) -> None:
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    async def get(self, url: str) -> tuple[int, str]:
        """Status and text."""

        def asked() -> tuple[int, str]:
            try:
                with self._opener.open(url, timeout=30) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        return await asyncio.to_thread(asked)

    async def json(self, url: str) -> Any:
        """What is answered, as a value."""
        return json.loads((await self.get(url))[1])


@contextlib.asynccontextmanager
async def page(*words: object) -> AsyncIterator[str]:
    """Runs `penstock page` and gives the address that it prints."""
    command = (sys.executable, "-m", cli.__name__, "page", *map(str, words))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(120):
            line = (await process.stdout.readline()).decode()
        found = re.search(r"http://\S+", line)
        assert found is not None, line
        yield found.group()
    finally:
        process.terminate()
        async with asyncio.timeout(60):
            code = await process.wait()
    assert code == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_commands_look_at_a_run_that_is_over(runs: pathlib.Path) -> None:
    code, out, err = await penstock("samples", RUN, "--runs", runs, "--json")
    assert code == 0, err
    samples = json.loads(out)
    assert len(samples) == 10 and all(s["turns"] for s in samples if "reward" in s)
    code, out, err = await penstock("lineage", RUN, "--runs", runs, "--step", run_testing.STEPS)
    assert code == 0 and json.loads(out)["fate"] == "TRAINED", err
    code, out, err = await penstock("explain", RUN, "--runs", runs)
    assert code == 0 and f"done at step {run_testing.STEPS}" in " ".join(out.split()), err
    code, out, err = await penstock("stop", RUN, "--runs", runs)
    assert code == 1 and "the run is done" in " ".join(err.split())


@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_of_a_run_that_is_over_has_its_steps_its_samples_and_its_recipe(runs: pathlib.Path) -> None:
    async with page(RUN, "--runs", runs) as url:
        client = Browser()
        base = url.partition("/?")[0]
        assert (await client.get(base))[0] == 403
        assert (await client.get(url))[0] == 200
        steps = (await client.json(f"{base}/history?after=500"))["steps"]
        assert [int(s["step"]) for s in steps] == list(range(501, run_testing.STEPS + 1))
        samples = await client.json(f"{base}/samples")
        one = next(s for s in samples if s.get("reward") is not None)
        whole = await client.json(f"{base}/samples/{one['group']}/{one.get('index', 0)}")
        assert whole["sample"] == one and whole["lineage"]["fate"] == "TRAINED"
        status, said = await client.get(f"{base}/samples/g99999999/0")
        assert status == 404 and "not in the log" in said
        assert (await client.get(f"{base}/samples/nobody/x"))[0] == 400
        assert "sort_characters" in (await client.get(f"{base}/runs/{RUN}/recipe"))[1]
        # While the page is open others may look too.
        code, out, err = await penstock("samples", RUN, "--runs", runs, "--json")
        assert code == 0 and len(json.loads(out)) == 10, err
    code, _, err = await penstock("page", "nobody", "--runs", runs)
    assert code == 2 and "no run 'nobody'" in " ".join(err.split())


@pytest.mark.asyncio(loop_scope="module")
async def test_the_runs_of_a_folder_are_shown_beside_each_other(runs: pathlib.Path) -> None:
    async with page("--runs", runs) as url:
        client = Browser()
        base = url.partition("/?")[0]
        assert "Curves" in (await client.get(url))[1]
        listed = {row["name"]: row for row in await client.json(f"{base}/runs.json")}
        assert listed[RUN]["reward_last"] == 0.9 and listed["other"]["state"] == ""
        curve = await client.json(f"{base}/runs/other/curve?metric=rl.reward.mean")
        assert curve["steps"] == [1, 2, 3, 4, 5] and curve["values"][4] == pytest.approx(0.4)
        told = await client.json(f"{base}/compare?run={RUN}&run=other")
        assert told["settings"]["learner.optimizer.learning_rate"] == [None, 1e-3]
        assert "rl.reward.mean" in told["metrics"]
        for bad in ("runs/nobody/recipe", "runs/..%2F/recipe", "compare?run=nobody"):
            assert (await client.get(f"{base}/{bad}"))[0] == 404
        assert (await client.get(f"{base}/compare"))[0] == 400


@pytest.mark.asyncio(loop_scope="module")
async def test_a_run_without_its_streams_or_its_tokenizer_says_so(runs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    code, _, err = await penstock("samples", "other", "--runs", runs)
    assert code == 2 and "streams are not there any more" in " ".join(err.split())
    shutil.copytree(runs / RUN, tmp_path / RUN)
    raw = yaml.safe_load((tmp_path / RUN / "recipe.yaml").read_text())
    raw["model"]["path"] = str(tmp_path / "gone")
    (tmp_path / RUN / "recipe.yaml").write_text(yaml.safe_dump(raw))
    code, _, err = await penstock("samples", RUN, "--runs", tmp_path)
    assert code == 2 and "its tokenizer is neither in" in " ".join(err.split())
