"""Every RPC and every stream against almost right messages: bounded and seeded here, for longer by hand."""

import pathlib

import pytest

from tests.fuzz.harness import Amount, fuzz
from tests.fuzz.system import system


@pytest.mark.parametrize("seed", [1])
async def test_nothing_dies_hangs_grows_or_takes_garbage(tmp_path: pathlib.Path, seed: int) -> None:
    async with system(tmp_path) as running:
        assert await fuzz(running, seed, Amount(calls=1200, entries=300)) == []
