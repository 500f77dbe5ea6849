"""`penstock train` in a terminal: a live view while the run goes on, and what came of it at the end."""

import asyncio
import json
import pathlib
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from penstock import rpc
from penstock.bus import BusError
from penstock.chat import TemplateError
from penstock.cli.adapters import unadapted
from penstock.cli.chats import chat_of
from penstock.cli.drafting import undraftable
from penstock.cli.foreign import unreachable
from penstock.cli.ports import port_problem
from penstock.cli.run_directory import RunRefused, held
from penstock.cli.training import Training, training
from penstock.coordinator.v1 import coordinator_pb2 as pb
from penstock.recipes import Recipe, RecipeError, load
from penstock.recipes.checks.packages import check_packages
from penstock.recipes.pinning import pinned
from penstock.supervisor import ServiceFailed
from penstock.system import exits
from penstock.telemetry import steps
from penstock.terminal import plain

LEARNER_END_SECONDS = 120.0
AGAIN_SECONDS = 2.0
PLAIN_EVERY = 10  # without a terminal: a line every so many steps


async def train_on_screen(
    path: pathlib.Path, overrides: Sequence[str], runs: pathlib.Path, page_port: int | None = None
) -> int:
    """Loads, checks, trains; the exit code."""
    console = Console()
    try:
        recipe = load(path, overrides)
    except RecipeError as error:
        Console(stderr=True).print(f"The recipe cannot be run.\n{error}", markup=False, highlight=False)
        return exits.BAD_INPUT
    if recipe.mode != "train":  # a log to replay, or a name for a measurement, is what those commands provide
        command = "eval" if recipe.mode == "evaluate" else "replay"
        words = f"{path}:\n  mode: {recipe.mode!r} is for `penstock {command}`; train takes 'train'"
        Console(stderr=True).print(words, markup=False, highlight=False)
        return exits.BAD_INPUT
    return await train(recipe, runs, console, page_port=page_port)


Look = Callable[[Training], Awaitable[None]]


async def train(
    recipe: Recipe, runs: pathlib.Path, console: Console, look: Look | None = None, page_port: int | None = None
) -> int:
    """Trains a checked recipe; the exit code. `look` is called when it is done, while the services still answer."""
    errors = Console(stderr=True)
    if problem := port_problem(page_port):
        errors.print(f"Cannot start: {problem}", markup=False, highlight=False)
        return exits.BAD_INPUT
    try:
        await asyncio.to_thread(chat_of, recipe)
        if problem := _of_one_host(recipe):
            errors.print(f"Cannot start: {problem}", markup=False, highlight=False)
            return exits.BAD_INPUT
        recipe = pinned(recipe)
        if away := check_packages(recipe) or [
            *await undraftable(recipe),
            *await unadapted(recipe),
            *await unreachable(recipe),
        ]:
            errors.print("Cannot start:", *away, sep="\n  ", markup=False, highlight=False)
            return exits.BAD_INPUT
        with held(runs, recipe) as folder:
            return await _train(recipe, folder, console, errors, look, page_port)
    except (RunRefused, OSError, TemplateError, RecipeError, BusError) as error:
        errors.print(f"Cannot start: {error}", markup=False, highlight=False)
        return exits.BAD_INPUT


def _of_one_host(recipe: Recipe) -> str:
    """Why a recipe is none for `train`, which has one host; empty where it is."""
    if recipe.limits.replicas > 1:
        words = "a run of `train` has one NATS; `penstock create` makes one on a cluster of yours"
        return f"limits.replicas: {recipe.limits.replicas}: {words}"
    if recipe.learner.nodes > 1:
        words = "a run of `train` has one host; `penstock create` makes one that `penstock join NATS RUN learner=1` "
        return f"learner.nodes: {recipe.learner.nodes}: {words}takes part in on each (docs/fleet/hosts.md)"
    return ""


async def _train(
    recipe: Recipe, folder: pathlib.Path, console: Console, errors: Console, look: Look | None, page_port: int | None
) -> int:
    screen = Screen(recipe, console)
    last: pb.Run | None = None
    failures: list[BaseException] = []
    try:
        async with training(recipe, folder, screen.restarted, page_port) as (run, keeping):
            screen.began(run)
            with screen.live():
                last = await _until_over(run, keeping, screen)
                if last is not None and last.state == pb.RUN_STATE_DONE:
                    if recipe.mode != "evaluate":  # there a learner exports the model
                        async with asyncio.timeout(LEARNER_END_SECONDS):
                            await run.supervisor.ended()
                    if look is not None:
                        await look(run)
    except* ServiceFailed as group:
        failures += group.exceptions
    for failure in failures:
        errors.print(f"The run failed: {failure}", markup=False, highlight=False)
    if failures:
        return exits.FAILED
    return screen.ended(folder, last)


async def _until_over(run: Training, keeping: "asyncio.Task[None]", screen: "Screen") -> pb.Run | None:
    """Shows the run until it is over. The first Ctrl-C asks it to end, the second ends it at once."""
    interrupts = asyncio.Event()
    at_once = asyncio.Event()
    asking: set[asyncio.Task[None]] = set()

    def interrupted() -> None:
        if interrupts.is_set():
            at_once.set()
            return
        interrupts.set()
        screen.note("stopping after this step, with a checkpoint (Ctrl-C again: at once)")
        asking.add(asyncio.ensure_future(ask_to_stop(run, screen.note)))

    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, interrupted)
    try:
        watching = asyncio.create_task(_watch(run, screen))
        ending = asyncio.create_task(at_once.wait())
        done, _ = await asyncio.wait({watching, ending, keeping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (watching, ending, *asking):
            task.cancel()
        await asyncio.gather(watching, ending, *asking, return_exceptions=True)
        if keeping in done:
            keeping.result()
        return screen.run
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)


async def ask_to_stop(run: Training, note: Callable[[str], None]) -> None:
    """Asks for ever, for asking twice changes nothing: a coordinator that was away hears it once it is back, and one
    that was killed after it heard it hears it again."""
    while True:
        try:
            await run.stop()
        except rpc.RpcError as error:
            note(f"asking the run to stop, which does not answer ({error.message}); Ctrl-C again ends it at once")
        await asyncio.sleep(AGAIN_SECONDS)  # for as long as it is being started again


async def _watch(run: Training, screen: "Screen") -> None:
    async for state in run.watch():
        screen.show(state)


class Screen:
    """What is shown. Without a terminal it prints a line now and then instead of drawing."""

    def __init__(self, recipe: Recipe, console: Console) -> None:
        self.run: pb.Run | None = None
        self._recipe, self._console = recipe, console
        self._note = self._stall = ""
        self._printed = -1
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(recipe.run, total=recipe.steps or None)
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._draw)

    def live(self) -> Live | Progress:
        """The context in which the view is drawn."""
        self._live.auto_refresh = self._console.is_terminal
        return self._live

    def began(self, run: Training) -> None:
        """Says where things are."""
        self._console.print(f"[bold]{self._recipe.run}[/bold]  live page: {run.page}  logs: {run.folder / 'logs'}")

    def show(self, run: pb.Run) -> None:
        """Takes the run's new state."""
        self.run = run
        self._progress.update(self._task, completed=run.step)
        if run.stall != self._stall:
            self._stall = run.stall
            self.note(run.stall or "the run moves again")
        if not self._console.is_terminal and run.step != self._printed and run.step % PLAIN_EVERY == 0:
            self._printed = run.step
            self._console.print(plain(self._line(run)))

    def restarted(self, name: str, how: str) -> None:
        """A service died and is started again."""
        self.note(f"{name} {how} and is started again")

    def note(self, text: str) -> None:
        """A line for people."""
        self._note = text
        if not self._console.is_terminal:
            self._console.print(plain(text))

    def ended(self, folder: pathlib.Path, run: pb.Run | None) -> int:
        """Says what came of it; the exit code."""
        if run is None:
            self._console.print(f"ended before it began; see {folder / 'logs'}")
            return exits.FAILED
        if run.state == pb.RUN_STATE_FAILED:
            self._console.print(Text("failed: ", style="red") + plain(run.reason))
            return exits.FAILED
        if run.state != pb.RUN_STATE_DONE:
            self._console.print(f"stopped at step {run.step}; the same command resumes it", highlight=False)
            return exits.DONE
        summary = json.loads((folder / "summary.json").read_text())
        if self._recipe.mode == "evaluate":
            self._console.print(evaluations_table(summary["eval"], self._recipe.run))
            return exits.DONE
        samples = summary["samples"]
        self._console.print(
            f"[green]done[/green]: {summary['steps']} steps, samples {samples['admitted']} admitted = "
            f"{samples['trained']} trained + {samples['filtered']} filtered + {samples['expired']} expired + "
            f"{samples['failed']} failed + {samples['in_flight']} in flight; model in {folder / 'export'}",
            highlight=False,
        )
        return exits.DONE

    def _draw(self) -> Group:
        table = Table.grid(padding=(0, 3))
        if self.run is not None:
            for name, value in self._numbers(self.run):
                table.add_row(f"[dim]{name}[/dim]", plain(value))
        return Group(self._progress, table, plain(self._note))

    def _numbers(self, run: pb.Run) -> list[tuple[str, str]]:
        m = run.metrics
        rows = [("state", pb.RunState.Name(run.state).removeprefix("RUN_STATE_").lower())]
        if "rl.reward.mean" in m:
            rows.append(("reward", f"{m['rl.reward.mean']:.3f}"))
        rows += [
            ("loss", f"{m.get('rl.loss', 0):.4f}"),
            ("staleness", f"mean {m.get('rl.staleness.mean', 0):.2f}  max {m.get('rl.staleness.max', 0):.0f} versions"),
            ("generation", f"{m.get('rl.tokens.generated_per_second', 0):,.0f} tokens/s"),
            ("training", f"{_rate(m):,.0f} tokens/s{_computed(m)}"),
            (
                "queue",
                f"{run.tasks_pending} tasks waiting, {run.groups_in_flight}/{run.groups_budget} groups in flight",
            ),
            ("versions", f"trained {run.trained_version.step}, serving {run.serving_version.step}"),
        ]
        rows += [("alert", text) for text in run.alerts]
        rows += [("changed", text) for text in run.changes]
        rows += [(f"eval @ {e.step}", headline(e.metrics)) for e in run.evaluations]
        return rows

    def _line(self, run: pb.Run) -> str:
        numbers = "  ".join(f"{name} {value}" for name, value in self._numbers(run) if name != "state")
        return f"step {run.step}/{run.max_steps}  {numbers}"


def headline(metrics: Mapping[str, float]) -> str:
    """What an evaluation says first: rewards of what was played, else what the learner measured on rows."""
    shown = [name for name in ("reward", "accuracy", "loss") if name in metrics]
    return ", ".join(f"{name} {metrics[name]:.3f}" for name in (shown[:1] if "reward" in shown else shown))


def evaluations_table(
    evaluations: Sequence[Mapping[str, float]], title: str, columns: Sequence[str] | None = None
) -> Table:
    """What evaluations measured, a column each, which is a version where no other name is given."""
    table = Table("", *(columns or [f"version {e['version']}" for e in evaluations]), title=title)
    for name in sorted({k for e in evaluations for k in e} - {"step", "version"}):
        table.add_row(name, *(f"{e[name]:.4g}" if name in e else "" for e in evaluations))
    return table


def _computed(metrics: Mapping[str, float]) -> str:
    """How much of what was given to the model was computed, where samples share what they begin with."""
    given, computed = (metrics.get(name, 0.0) for name in (steps.TOKENS_GIVEN, steps.TOKENS_COMPUTED))
    return f", {computed / given:.0%} of them computed" if computed < given else ""


def _rate(metrics: Mapping[str, float]) -> float:
    return metrics.get("rl.tokens.trained", 0.0) / max(metrics.get("rl.step.seconds", 0.0), 1e-9)
