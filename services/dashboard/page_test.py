"""The live page in a real browser, over the real coordinator and dashboard processes and a real NATS."""

import asyncio
import contextlib
import os
import pathlib
import re
import shutil
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from penstock import rpc
from penstock.bus import EmbeddedServer, RunNames, connect
from penstock.generation.v1 import generation_pb2_grpc
from penstock.weights.v1 import weights_pb2_grpc
from services.dashboard import run_testing
from services.dashboard.run_testing import MAX_STEPS, STEPS, FakeReplica, FakeStore, Pages

KEY = "a-key-of-this-test"
HOSTILE = "<img src=x onerror=document.title=1>"
CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH"),
    pytest.mark.asyncio(loop_scope="module"),
]


@contextlib.asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of ours, killed at the end if it is still there."""
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()


async def announced(path: pathlib.Path, process: asyncio.subprocess.Process) -> str:
    """The address a process wrote once it listened."""
    async with asyncio.timeout(60):
        while not path.exists():
            assert process.returncode is None
            await asyncio.sleep(0.02)
    return path.read_text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pages(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pages]:
    folder = tmp_path_factory.mktemp("runs") / "sort-characters-grpo"
    folder.mkdir()
    recipe = run_testing.write_recipe(folder)
    names = RunNames("sort-characters-grpo")
    async with EmbeddedServer(folder / "nats", folder / "nats.log") as nats, rpc.Server("generation-0") as replica:
        async with connect(nats.url, name="test", monitor_url=nats.monitor_url) as bus:
            await run_testing.write_ledger(bus, names)
            await run_testing.write_log(bus, names, folder / "model", HOSTILE)
        replica.add(generation_pb2_grpc.add_GenerationServiceServicer_to_server, FakeReplica())
        replica.add(weights_pb2_grpc.add_WeightSyncServiceServicer_to_server, FakeStore())
        await replica.start()
        command = ["-m", "services.coordinator", "--recipe", str(recipe), "--run-directory", str(folder)]
        command += ["--nats", nats.url, "--peer", f"generation-0={replica.address}", "--peer", "learner=127.0.0.1:9"]
        command += ["--peer", f"weight_sync={replica.address}"]
        async with child(*command, "--announce", str(folder / "coordinator")) as coordinator:
            address = await announced(folder / "coordinator", coordinator)
            command += ["--listen", address]
            (folder / "page.key").write_text(KEY)
            dashboard_flags = [
                "--key-file",
                str(folder / "page.key"),
                "--coordinator",
                address,
                "--announce",
                str(folder / "dashboard"),
                "--runs",
                str(folder.parent),
            ]
            async with child("-m", "services.dashboard", *dashboard_flags) as dashboard:
                yield Pages(f"http://{await announced(folder / 'dashboard', dashboard)}", command, coordinator)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        await launched.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, pages: Pages) -> AsyncIterator[Page]:
    opened = await browser.new_page(viewport={"width": 1440, "height": 1180})
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda r: None if r.url.startswith((pages.url, "data:")) else problems.append(r.url))
    refused = await opened.goto(pages.url)
    assert refused is not None and refused.status == 403, "nobody looks without the key"
    await opened.goto(f"{pages.url}/?key={KEY}")
    assert "key" not in opened.url
    await expect(opened.locator("#run-name")).to_have_text("sort-characters-grpo", timeout=20_000)
    yield opened
    await opened.close()
    assert problems == []  # no script error, and nothing asked of any other host


async def test_a_page_opened_late_shows_the_whole_run(page: Page, tmp_path: pathlib.Path) -> None:
    await expect(page.locator("#charts")).to_have_attribute("data-steps", str(STEPS))
    await expect(page.locator("#state")).to_have_text("RUNNING")
    await expect(page.locator("#step-text")).to_have_text(f"step {STEPS} of {MAX_STEPS}")
    titles = await page.locator(".chart").evaluate_all("charts => charts.map(c => c.dataset.title)")
    more = ["Entropy", "KL", "Gradient norm", "Reward by part"]  # what the steps have numbers for
    assert titles == ["Reward", "Loss", "Staleness", "Throughput", "Completion length", "Step time", *more]
    await expect(page.locator('[data-title="Reward by part"] .reading').nth(1)).to_contain_text("sorted0.99")
    await expect(page.locator("#evaluations thead th").nth(6)).to_have_text("version 500")
    await expect(page.locator('[data-title="Reward"] .reading').nth(2)).to_contain_text("eval0.924")
    await expect(page.locator('[data-title="Loss"] .reading').nth(2)).to_be_hidden()  # rows are played here
    await expect(page.locator('[data-name="Evaluation"]')).to_contain_text("reward at v")
    await expect(page.locator('[data-name="Versions"]')).to_contain_text(f"v{STEPS}trained · v{STEPS - 1} serving")
    await expect(page.locator("#samples tbody tr")).to_have_count(24)
    folder = pathlib.Path(os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR", tmp_path))
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        await page.screenshot(path=folder / f"live-page-{scheme}.png")


async def test_the_accounting_adds_up_in_view(page: Page) -> None:
    terms = [int(t.split()[0].replace(",", "")) for t in await page.locator("#equation .term").all_inner_texts()]
    assert terms[0] == sum(terms[1:])
    assert terms[1] == STEPS * run_testing.GROUPS * run_testing.SIZE
    await expect(page.locator("#sum")).to_have_text("adds up")


async def test_text_of_a_model_is_never_markup(page: Page) -> None:
    await expect(page.locator("#samples .piece", has_text=HOSTILE)).to_have_count(1)
    await expect(page.locator("#samples .detail", has_text=HOSTILE + "<script>stolen()</script>")).to_have_count(1)
    assert await page.locator("#samples img, #samples script").count() == 0
    await expect(page).to_have_title(f"sort-characters-grpo · {STEPS}/{MAX_STEPS} · penstock")
    policy = (await page.request.get(page.url)).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy


async def test_pieces_are_coloured_by_version_and_failures_are_typed(page: Page) -> None:
    row = page.locator("#samples tbody tr", has_text=f"g{run_testing.LOGGED + 2:08d}/7")
    await expect(row.locator(".piece")).to_have_count(3)
    colours = await row.locator(".piece").evaluate_all("pieces => pieces.map(p => getComputedStyle(p).backgroundColor)")
    assert len(set(colours)) == 3
    await expect(page.locator("#legend .version")).to_have_text([f"v{s}" for s in (STEPS - 2, STEPS - 1, STEPS)])
    await expect(page.locator("#samples")).to_contain_text("FAILED · timeout")
    await expect(page.locator("#samples")).to_contain_text("FAILED · reward")
    failed = page.locator("#samples tr.failed .reward")
    assert await failed.all_inner_texts() == ["none", "none"]  # a failure has no reward, not 0


async def test_a_sample_is_opened_whole(page: Page) -> None:
    await page.click("#samples tbody tr:nth-child(1) button.link")
    await expect(page.locator("#sample")).to_be_visible()
    await expect(page.locator("#sample-facts")).to_contain_text("TRAINED in step")
    assert await page.locator("#sample-turns .turn.drawn").count() >= 1
    await page.click("#sample-close")
    await expect(page.locator("#sample")).to_be_hidden()


async def test_a_metric_of_the_folder_s_runs_is_drawn(page: Page, pages: Pages) -> None:
    await page.goto(f"{pages.url}/runs")
    await expect(page.locator("#runs tbody tr")).to_contain_text("sort-characters-grpo")
    await expect(page.locator("#plot")).to_have_attribute("data-curves", "1")
    await page.select_option("#metric", "rl.policy.entropy")
    await expect(page.locator("#legend b")).to_have_text(re.compile(r"0\.\d+"))
    await page.uncheck("#runs input")
    await expect(page.locator("#runs input")).to_be_checked()  # none chosen: the newest are


async def test_who_takes_part_is_listed(page: Page) -> None:
    await expect(page.locator("#members-count")).to_have_text("1 of 1 ready")
    await expect(page.locator("#members tbody tr")).to_have_count(1)
    await expect(page.locator("#members tbody")).to_contain_text("coordinator")


async def test_versions_are_listed_with_who_holds_them_and_how_they_came(page: Page) -> None:
    await expect(page.locator("#versions-served")).to_have_text(f"version {STEPS - 1} is served", timeout=15_000)
    rows = page.locator("#versions tbody tr")
    await expect(rows).to_have_count(2)  # what is retired is left out
    await expect(rows.nth(0)).to_contain_text("rejected31<b>worse</b>")
    await expect(rows.nth(1)).to_contain_text("ready, served")
    await expect(page.locator("#receivers tbody")).to_contain_text(f"generation-0{STEPS - 1}difference1")
    await expect(page.locator("#receivers tbody")).to_contain_text("0.250 s")


async def test_why_names_the_service_that_does_not_answer(page: Page) -> None:
    await page.click("#why-button")
    await expect(page.locator("#why-text")).to_contain_text("learner does not answer", timeout=15_000)
    await expect(page.locator("#why-table")).to_contain_text("generation-0")
    await page.click("#why-close")
    await expect(page.locator("#why")).to_be_hidden()


async def test_a_bad_history_position_is_refused(page: Page, pages: Pages) -> None:
    for bad in ("x", "-1", "99999999999999999999999"):
        assert (await page.request.get(f"{pages.url}/history?after={bad}")).status == 400


async def test_while_the_coordinator_is_away_the_last_known_state_is_shown(page: Page, pages: Pages) -> None:
    pages.process.kill()
    await pages.process.wait()
    await expect(page.locator("#away")).to_be_visible(timeout=15_000)
    await expect(page.locator("#away")).to_contain_text("Coordinator away. Showing the last known state")
    await expect(page.locator("#step-text")).to_have_text(f"step {STEPS} of {MAX_STEPS}")
    assert (await page.request.get(f"{pages.url}/history")).status == 503
    async with child(*pages.coordinator):
        await expect(page.locator("#away")).to_be_hidden(timeout=60_000)
        await expect(page.locator("#state")).to_have_text("RUNNING")
