"""The runs of a folder beside each other: a list, curves of a metric over one another, settings that differ.

    /runs                            the page
    /runs.json                       [{"name", "state", "steps", "reward_first", "reward_last", "reason"}, ...]
    /runs/NAME/curve?metric=M        {"steps": [...], "values": [...]}
    /runs/NAME/recipe                the resolved recipe, as text
    /compare?run=A&run=B             {"metrics": [...], "settings": {key: [...]}, "numbers": {name: [...]}}

Everything is read from the runs' files whenever it is asked for, so that runs that are over are shown like those under
way. A name is one of the folder's runs, or nothing is read.
"""

import asyncio
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import yaml
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from penstock.histories.history import MANY, History, different, finals, summary_of

STATIC = pathlib.Path(__file__).parent / "static"
MOST_POINTS = 2000
"""Of one curve: no screen has more columns."""


def of_folder(folder: pathlib.Path) -> list[BaseRoute]:
    """The routes over the runs in `folder`."""

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "runs.html")

    async def listed(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(_listed, folder))

    async def curve(request: Request) -> Response:
        metric = request.query_params.get("metric", "rl.reward.mean")
        found = await asyncio.to_thread(_histories, folder, [request.path_params["name"]])
        if found is None:
            return _no_run()
        steps, values = _thinned(*found[0].curve(metric))
        return JSONResponse({"steps": steps, "values": values})

    async def recipe(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in await asyncio.to_thread(_names, folder):
            return _no_run()
        return PlainTextResponse(await asyncio.to_thread((folder / name / "recipe.yaml").read_text))

    async def compare(request: Request) -> Response:
        names = request.query_params.getlist("run")
        if not 1 <= len(names) <= MANY:
            return JSONResponse({"error": f"run: 1 to {MANY} of them"}, status_code=400)
        found = await asyncio.to_thread(_histories, folder, names)
        if found is None:
            return _no_run()
        metrics = sorted({name for history in found for name in history.metrics})
        numbers = {name: [_number(value) for value in values] for name, values in finals(found).items()}
        return JSONResponse({"metrics": metrics, "settings": different(found), "numbers": numbers})

    return [
        Route("/runs", page),
        Route("/runs.json", listed),
        Route("/runs/{name}/curve", curve),
        Route("/runs/{name}/recipe", recipe),
        Route("/compare", compare),
    ]


def _no_run() -> Response:
    return JSONResponse({"error": "there is no such run in the folder, or its recipe cannot be read"}, status_code=404)


def _names(folder: pathlib.Path) -> list[str]:
    """The runs, the newest first."""
    found = {path.parent.name: path.stat().st_mtime for path in folder.glob("*/recipe.yaml")}
    return sorted(found, key=lambda name: -found[name])


def _listed(folder: pathlib.Path) -> list[dict[str, Any]]:
    shown = []
    for name in _names(folder):
        told = summary_of(folder / name)
        row = {"name": name, "state": str(told.get("status", "")), "reason": str(told.get("reason", ""))}
        shown.append(row | {key: _number(told.get(key)) for key in ("steps", "reward_first", "reward_last")})
    return shown


def _histories(folder: pathlib.Path, names: Sequence[str]) -> list[History] | None:
    """Those of the names; None if one of them is no run that can be read."""
    known = _names(folder)
    if any(name not in known for name in names):
        return None
    try:
        return [History.of(folder / name) for name in names]
    except (OSError, yaml.YAMLError):
        return None


def _thinned(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float | None]]:
    """At most MOST_POINTS of a curve, evenly, its last one always."""
    every = -(-len(steps) // MOST_POINTS) or 1
    chosen = range((len(steps) - 1) % every, len(steps), every) if steps else range(0)
    return [steps[i] for i in chosen], [_number(values[i]) for i in chosen]


def _number(value: Any) -> float | None:
    """A number that JSON can hold."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None
