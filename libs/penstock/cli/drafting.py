"""Whether the engine's environment has what drafting tokens ahead needs, asked of it before a run starts."""

import asyncio
import json

from penstock.recipes import Recipe
from penstock.supervisor.plan import launcher

NEED_PACKAGES = ("suffix",)
REFUSED = 2
"""What a service ends with that cannot be started as asked."""


async def undraftable(recipe: Recipe) -> list[str]:
    """One sentence where `generation.speculative` names a method whose package generation does not have. Empty also
    where generation is not installed: where it is, it refuses to start."""
    asked = recipe.generation.speculative
    if asked is None or asked.method not in NEED_PACKAGES or not recipe.generates:
        return []
    command = (*launcher("generation"), "--model", recipe.model.path, "--speculative", json.dumps(asked.config))
    process = await asyncio.create_subprocess_exec(
        *command,
        "--check",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    if process.returncode != REFUSED:
        return []
    return [f"generation.speculative: {said.decode(errors='replace').strip().rpartition('--speculative: ')[2]}"]
