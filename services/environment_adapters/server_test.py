"""The real process: what it serves keeps the contracts, and `--check` says what cannot be had."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from penstock.sdk import check_environment

MODULE = "services.environment_adapters"
SUMS: dict[str, Any] = {"name": "reasoning_gym:chain_sum", "settings": {"max_terms": 2, "min_terms": 2}}
LAKE: dict[str, Any] = {"name": "gymnasium:FrozenLake-v1", "settings": {"is_slippery": False}}


async def started(*flags: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, "-m", MODULE, *flags, stdout=pipe, stderr=pipe)


@pytest_asyncio.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    announced = tmp_path / "address"
    served = [word for each in (SUMS, LAKE) for word in ("--serve", json.dumps(each))]
    flags = ("--listen", "127.0.0.1:0", "--announce", str(announced), "--workers", "1", *served)
    process = await started(*flags)
    try:
        async with asyncio.timeout(120):
            while not announced.exists():
                assert process.returncode is None, await process.communicate()
                await asyncio.sleep(0.05)
        yield announced.read_text()
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_what_it_serves_keeps_the_contract_of_environments(address: str) -> None:
    reports = [await check_environment(address, environment=each["name"], row={"index": 1}) for each in (SUMS, LAKE)]
    failed = [check for report in reports for check in report.checks if not check.passed]
    assert all(report.passed for report in reports), failed


async def test_it_says_what_cannot_be_had_a_line_each() -> None:
    asked = [SUMS, {"name": "reasoning_gym:chain_sm"}, {"name": "gymnasium:FrozenLak-v1"}]
    process = await started("--check", *(word for each in asked for word in ("--serve", json.dumps(each))))
    said, _ = await asyncio.wait_for(process.communicate(), 120)
    first, second = said.decode().splitlines()
    assert process.returncode == 2 and "did you mean chain_sum?" in first and "did you mean FrozenLake-v1?" in second


@pytest.mark.parametrize("served", ['{"name": "verifier:x"}', "{}", '{"name": "gymnasium:x", "settings": 1}'])
async def test_bad_input_ends_with_status_2_and_a_reason(served: str) -> None:
    process = await started("--serve", served)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2 and b"--serve: " in errors and b"Traceback" not in errors
