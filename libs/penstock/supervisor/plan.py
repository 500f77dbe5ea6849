"""Which processes a run needs on one host, and with which arguments. Pure: the same arguments run under Kubernetes."""

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from penstock.access import PARTS
from penstock.packages import Overlay
from penstock.recipes import Recipe
from penstock.recipes.sections import Judge

RUNS = {"teacher": "generation", "judge": "generation", "adapters": "environment_adapters", "relay": "weight_sync"}
"""The program that plays a part, where it is not that of the part's name."""
SHOWS = {part: kind for kind, parts in PARTS.items() for part in parts if part != kind}
"""The kind whose credentials a part shows, likewise."""
SECRETS = pathlib.PurePath("secrets")
CALLERS, PAGE_KEY = SECRETS / "callers.json", SECRETS / "page.key"
"""Where a run's directory has what its services are started with: whom they know, and what opens the page."""

LESS_MEMORY = {
    "learner": "learner.micro_batch_tokens, or set learner.recompute=full",
    "generation": "generation.memory_gib or generation.max_running",
    "teacher": "teacher.memory_gib",
    "judge": "memory_gib of the reward's judge",
    "reward_model": "batch_tokens of the reward's model",
    "environment": "environment.workers",
    "adapters": "environment.workers",
}
"""By kind of service, the keys of a recipe that most of its memory hangs on."""


def token_of(kind: str) -> pathlib.PurePath:
    """Where a run's directory has what a kind shows to services."""
    return SECRETS / f"{kind}.token"


def nats_of(kind: str) -> pathlib.PurePath:
    """Where a run's directory has what a kind shows to NATS."""
    return SECRETS / f"{kind}.nats"


@dataclasses.dataclass(frozen=True)
class Service:
    """One process: its instance name, the address it serves, its command line, and variables beside those of here."""

    name: str
    address: str
    command: tuple[str, ...]
    ends: bool = False  # whether exit code 0 means that its work is done
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def way_out(self) -> str:
        """What needs less memory, if anything of the recipe does: an addition to a sentence."""
        keys = LESS_MEMORY.get(kind_of(self.name))
        return f" (lower {keys})" if keys else ""


def kind_of(name: str) -> str:
    """The kind of an instance: "generation" of generation-0, and of generation-host-b-0."""
    return name.partition("-")[0]


def launcher(service: str, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What starts a service: the program that PENSTOCK_LAUNCH_<SERVICE> names (Bazel sets it: each service has its own
    virtual environment), else its module in this interpreter (an image with everything installed)."""
    program = environment.get(f"PENSTOCK_LAUNCH_{service.upper()}")
    if program is None:
        return (sys.executable, "-m", f"services.{service}")
    return (os.path.join(environment.get("PENSTOCK_RUNFILES", ""), program),)


@dataclasses.dataclass(frozen=True)
class Joins:
    """How services join a run of another host. secrets: a folder with the run's `secrets`; None: it has none."""

    secrets: pathlib.Path | None = None
    flags: tuple[str, ...] = ("--ends-with-run",)


def runs_in(command: Sequence[str]) -> int:
    """Where the flags of a service's command begin."""
    return next(i for i, word in enumerate(command) if word.startswith("--"))


def instances(recipe: Recipe) -> list[str]:
    """Instance names of a run's services, in the order they are started. NATS is not among them."""
    names = ["weight_sync"]
    if recipe.generates:
        names += [f"generation-{i}" for i in range(recipe.generation.replicas)]
        if recipe.runs_agents:
            names += [f"gateway-{i}" for i in range(recipe.gateway.replicas)]
        if not recipe.only_foreign_environments:
            names += [f"environment-{i}" for i in range(max(e.replicas for e in recipe.environments))]
        names += [f"adapters-{i}" for i in range(max((e.replicas for e in recipe.adapted), default=0))]
        names += [f"reward_model-{i}" for i in range(len(recipe.reward_models))]
        names += [f"judge-{i}" for i in range(len(_judges(recipe)))]
    if recipe.mode != "evaluate":
        names.append("learner")
    if recipe.mode == "train" and recipe.teacher is not None:
        names += [f"teacher-{i}" for i in range(recipe.teacher.replicas)]
    if recipe.mode != "replay":
        names += [f"rollout-{i}" for i in range(recipe.rollout.workers)]
    return [*names, "coordinator", "dashboard"]


def plan(
    recipe: Recipe,
    folder: pathlib.Path,
    nats: str,
    addresses: Mapping[str, str],
    joins: Joins | None = None,
    given: Callable[[str], Mapping[str, str]] = lambda name: {},
) -> Iterator[Service]:
    """The services of a run on one host. `addresses`: instance name -> HOST:PORT on which it listens.

    joins: how they take part where this host did not start the run. given: further variables of a process, by name.
    """
    secrets = folder if joins is None else joins.secrets
    for name in addresses:
        kind = kind_of(name)
        ends = kind == "learner" or joins is not None
        arguments = tuple(str(a) for a in _arguments(name, kind, recipe, folder, secrets))
        common = ("--name", name, "--listen", addresses[name], "--trace-file", str(folder / "trace" / f"{name}.jsonl"))
        runs = RUNS.get(kind, kind)
        run = ["--nats", nats, "--run", recipe.run, *(joins.flags if joins is not None else ())]
        if kind == "gateway":  # where agents find it is where others do
            run += ["--http", f"{addresses[name].rpartition(':')[0]}:0"]
        shown = _credentials(SHOWS.get(kind, kind), recipe, secrets) if secrets is not None else ()
        variables = dict(given(name))
        variables |= packages_of(recipe, os.environ) if kind in ("environment", "adapters", "coordinator") else {}
        yield Service(
            name, addresses[name], (*launcher(runs), *common, *run, *map(str, shown), *arguments), ends, variables
        )


def packages_of(recipe: Recipe, environment: Mapping[str, str]) -> dict[str, str]:
    """Where a service finds the user's own packages: Bazel's launchers make PYTHONPATH anew, with PENSTOCK_PACKAGES at
    its end; elsewhere it is inherited."""
    if recipe.packages.folder is None:
        return {}
    site = str(Overlay(pathlib.Path(recipe.packages.folder).absolute()).site)
    before = environment.get("PYTHONPATH")
    return {"PENSTOCK_PACKAGES": site, "PYTHONPATH": f"{before}{os.pathsep}{site}" if before else site}


def _credentials(kind: str, recipe: Recipe, folder: pathlib.Path) -> Iterator[object]:
    """What a service shows to others, and whom it knows."""
    yield from ("--token-file", folder / token_of(kind), "--callers-file", folder / CALLERS)
    yield from ("--nats-token-file", folder / nats_of(kind))
    if recipe.security.authority is not None:
        certificate, key = recipe.security.pair(kind)
        yield from ("--tls-ca", recipe.security.authority, "--tls-certificate", certificate, "--tls-key", key)


def _arguments(
    name: str, kind: str, recipe: Recipe, folder: pathlib.Path, secrets: pathlib.Path | None
) -> Iterator[object]:
    resolved = folder / "recipe.yaml"
    fraction = ("--trace-fraction", recipe.telemetry.trace_fraction)
    match kind:
        case "weight_sync":
            yield from ("--directory", folder / "versions", "--keep", recipe.weight_sync.keep_versions)
            if recipe.canary is not None:
                yield from ("--canaries", recipe.canary.replicas)
        case "relay":
            yield from ("--relay", "--directory", folder / name, "--keep", recipe.weight_sync.keep_versions)
        case "generation":
            g = recipe.generation
            yield from ("--model", recipe.model.path)
            yield from ("--dtype", recipe.model.dtype, "--max-running", g.max_running, "--max-context", g.max_context)
            yield from ("--memory-gib", g.memory_gib, "--gpu-memory-fraction", g.gpu_memory_fraction)
            yield from ("--tensor-parallel", g.tensor, "--chunk-tokens", g.chunk_tokens, "--threads", g.threads)
            yield from ("--kv-on-update", g.kv_on_update, *(("--compile",) if g.compile else ()))
            yield from ("--routes",) if recipe.learner.routing_replay and recipe.mode == "train" else ()
            if g.speculative is not None:
                yield from ("--speculative", json.dumps(g.speculative.config))
        case "teacher":
            if recipe.teacher is None:
                raise ValueError("the run has no teacher")
            t, g = recipe.teacher, recipe.generation
            # One token more than a sample may have: a scoring request also draws one.
            yield from ("--part", "teacher", "--model", t.path, "--dtype", t.dtype, "--max-context", g.max_context + 1)
            yield from ("--memory-gib", t.memory_gib, "--gpu-memory-fraction", t.gpu_memory_fraction)
            yield from ("--max-running", g.max_running, "--tensor-parallel", t.tensor, "--threads", t.threads)
        case "judge":
            judges = _judges(recipe)
            reward, j = judges[int(name.rpartition("-")[2]) % len(judges)]
            yield from ("--part", "judge", "--serves", reward, "--max-context", j.max_context)
            yield from ("--model", j.path, "--dtype", j.dtype)
            yield from ("--memory-gib", j.memory_gib, "--gpu-memory-fraction", j.gpu_memory_fraction)
            yield from ("--max-running", j.max_running, "--tensor-parallel", j.tensor, "--threads", j.threads)
        case "environment":
            yield from ("--workers", max(e.workers for e in recipe.environments))
        case "adapters":
            yield from ("--workers", max(e.workers for e in recipe.adapted), *served(recipe))
        case "reward_model":
            models = list(recipe.reward_models.items())
            reward, m = models[int(name.rpartition("-")[2]) % len(models)]
            yield from ("--reward", reward, "--model", m.path, "--dtype", m.dtype)
            yield from ("--batch-tokens", m.batch_tokens, "--threads", m.threads)
        case "learner":
            yield from ("--recipe", resolved, "--run-directory", folder)
        case "gateway":
            yield from ("--recipe", resolved, *fraction)
        case "rollout":
            yield from ("--recipe", resolved, *fraction)
        case "coordinator":
            yield from ("--recipe", resolved, "--run-directory", folder, *fraction)
        case "dashboard":
            yield from ("--runs", folder.parent)
            yield from () if secrets is None else ("--key-file", secrets / PAGE_KEY)


def served(recipe: Recipe) -> Iterator[str]:
    """What the adapters' program is told to serve, or to look for."""
    for each in recipe.adapted:
        measured = {"measured": True} if recipe.measures(each) else {}
        yield from ("--serve", json.dumps({"name": each.name, "settings": each.settings, **measured}))


def _judges(recipe: Recipe) -> list[tuple[str, Judge]]:
    """The reward and the model of each replica of each judge."""
    return [(reward, judge) for reward, judge in recipe.judges.items() for _ in range(judge.replicas)]
