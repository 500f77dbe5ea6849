"""Whether other libraries have the environments that a recipe names: asked of the adapters' program before a run."""

import asyncio
import os

from penstock.recipes import Recipe
from penstock.supervisor.plan import launcher, packages_of, served
from penstock.telemetry.waits import waiting

SECONDS = 120.0
"""For importing the libraries that are named."""


async def unadapted(recipe: Recipe) -> list[str]:
    """One sentence for each environment that its library does not have, or whose settings it does not take."""
    asked = list(served(recipe))
    if not asked:
        return []
    process = await asyncio.create_subprocess_exec(
        *launcher("environment_adapters"),
        *asked,
        "--check",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **packages_of(recipe, os.environ)},
    )
    try:
        with waiting("whether libraries have what the recipe names", on="environment_adapters", deadline=SECONDS):
            async with asyncio.timeout(SECONDS):
                said, errors = await process.communicate()
    except TimeoutError:
        return [f"environment.name: the adapters did not say within {SECONDS:g} s whether they have it"]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return []  # what a library prints by itself is no problem
    lines = said.decode(errors="replace").splitlines()
    if not lines:
        why = errors.decode(errors="replace").strip().rpartition("\n")[2]
        return [f"environment.name: the adapters' program cannot be run here: {why}"]
    return [f"environment.name: {line}" for line in lines]
