"""The real process: started by its command line, used over gRPC, ended by SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from penstock.sdk import check_environment, check_reward

MODULE = "services.environment"


@pytest_asyncio.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    async with serving(tmp_path) as address:
        yield address


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[str]:
    """The process, for the block; its address."""
    announced = tmp_path / "address"
    flags = ["--listen", "127.0.0.1:0", "--announce", str(announced), "--workers", "1", "--reflection"]
    flags += ["--trace-file", str(tmp_path / "trace.jsonl")]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", MODULE, *flags)
    try:
        async with asyncio.timeout(60):
            while not announced.exists():
                assert process.returncode is None
                await asyncio.sleep(0.02)
        yield announced.read_text()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert "RewardService" in (tmp_path / "trace.jsonl").read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_package_of_ones_own_is_served_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the supervisor says that it lies."""
    info = tmp_path / "site" / "mine-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[penstock.rewards]\nmine = mine:mine\n")
    (tmp_path / "site" / "mine.py").write_text(
        "from penstock.sdk import reward\n\n\n@reward\ndef mine(sample):\n    return len(sample.completion)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}:{info.parent}")
    async with serving(tmp_path) as address:
        assert (await check_reward(address, reward="mine")).passed


async def test_the_service_keeps_its_contracts(address: str) -> None:
    reports = [
        await check_reward(address, reward="sort_characters"),
        await check_reward(address, reward="math", row={"answer": "4"}),
        await check_reward(address, reward="python_tests", row={"tests": ["assert f(1) == 2"]}),
        await check_environment(address, environment="guess_number"),
        await check_environment(address, environment="calculator", row={"question": "what is 6 * 7?", "answer": 42}),
        await check_environment(address, environment="python_code", row={"question": "what is 6 * 7?", "answer": 42}),
    ]
    assert all(report.passed for report in reports), [
        check for report in reports for check in report.checks if not check.passed
    ]


@pytest.mark.parametrize("flags", [["--listen", "192.0.2.1:1"], ["--workers", "0"]])
async def test_bad_input_ends_with_status_2_and_a_reason(flags: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", MODULE, *flags, stderr=asyncio.subprocess.PIPE)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert b"Traceback" not in errors and errors.strip()
