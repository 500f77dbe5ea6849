"""The gateway against requests that are almost right: bounded and seeded here, for longer by hand."""

import pathlib

import pytest

from tests.fuzz.gateway import attack, gateway


@pytest.mark.parametrize("seed", [1])
async def test_nothing_kills_the_gateway_and_what_is_trained_was_drawn(tmp_path: pathlib.Path, seed: int) -> None:
    async with gateway(tmp_path) as at:
        assert await attack(at, seed, sessions=16, calls=40) == []
        assert at.answered > 100 and at.held > 50, "most of what is sent is good enough for an answer"
