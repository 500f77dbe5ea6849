"""The learner's life on every rank: build, resume, then step after step until the run is done or asked to end.

Rank 0 decides what comes next and tells the others; they wait in a broadcast that is never longer than TICK_SECONDS,
because rank 0 sends "wait" while it has no batch. So no collective waits for the network.
"""

import dataclasses
import logging
import pathlib
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist

from penstock.bus import Bus, RunNames
from penstock.recipes import Recipe
from penstock.rpc import Security, Server
from penstock.telemetry import metrics, steps
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.method import Trainer
from services.learner.algorithms.plugins import load_plugins
from services.learner.algorithms.sources import Sources
from services.learner.algorithms.table import make_trainer
from services.learner.backends.choose import make_critic, make_policy
from services.learner.checkpoints import directory as checkpoints
from services.learner.checkpoints.actor_critic import ActorCritic
from services.learner.huggingface import export as hf_export
from services.learner.interface.batch import broadcast
from services.learner.interface.policy import Policy
from services.learner.leader.feed import Feed
from services.learner.leader.keeper import Keeper
from services.learner.leader.leader import Leader, leading
from services.learner.leader.lineage import tie
from services.learner.leader.preparation import Prepared, prepare
from services.learner.leader.publishing import Published
from services.learner.leader.server import State, Status
from services.learner.validation import Validation

logger = logging.getLogger(__name__)
_step = metrics.gauge(metrics.STEP, "optimizer steps taken")
_step_seconds = metrics.histogram(metrics.STEP_SECONDS, "seconds per optimizer step")
_tokens = metrics.counter(metrics.TOKENS_TRAINED, "tokens trained on")

TICK_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the run lives, and whom rank 0 talks to."""

    folder: pathlib.Path
    nats: str
    weight_sync: str
    listen: str
    announce: pathlib.Path | None
    name: str
    security: Security
    reflection: bool = False

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.folder / "checkpoints"


def learn(recipe: Recipe, place: Place, at: Callable[[str], None]) -> None:
    """Trains to the recipe's last step. torch.distributed is initialised; every rank calls this.

    at: told what this rank is about to do, for those who wonder why it does not come on.
    """
    load_plugins(recipe.plugins)
    at("loading the model")
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    policy = make_policy(recipe)
    critic = make_critic(recipe, policy)
    saved = policy if critic is None else ActorCritic(policy, critic)
    trainer = make_trainer(recipe, policy, critic)
    kept, keep_log = recipe.learner.checkpoints, recipe.limits.keep_log
    # What is older than the newest few may need samples that are not in the log any more.
    resumed = checkpoints.load_newest(place.checkpoints, saved.load, among=None if keep_log else kept.keep)
    step, extra = resumed if resumed is not None else (0, {"log_cursor": 0})
    status = Status(recipe.algorithm.steps, step=step, checkpoint_step=step if resumed else None)
    sources = Sources.of(recipe)
    validation = Validation.of(recipe, sources, trainer, device)
    published = Published.of(recipe, policy)
    with ExitStack() as stack:
        leader = stack.enter_context(_leader(recipe, place, status, sources, extra)) if dist.get_rank() == 0 else None
        signal.signal(signal.SIGTERM, lambda *_: status.drain_wanted.set())
        logger.info("learning from step %d", step, extra={"epoch": status.epoch})
        keeper = Keeper(place.checkpoints, kept, saved, status, leader, keep_log)
        if step == 0:
            at("measuring held-out rows")
            validation.measure(0, leader)
        while step < recipe.algorithm.steps:
            keeper.collect()
            at(f"waiting for the batch of step {step + 1}")
            command, prepared = _next(leader, status, sources, step + 1, keeper)
            if command == "end":
                keeper.finish(step)
                return
            if command == "finish":
                break
            if command == "save":
                at(f"copying the state of step {step}")
                keeper.begin(step)
            elif command == "train":
                step += 1
                at(f"training step {step}")
                _train(trainer, published, leader, status, prepared, step, device, keeper, validation)
                if step % recipe.learner.checkpoints.every == 0:
                    status.save_wanted.set()
        at("ending")
        keeper.finish(step)
        if leader is not None:
            leader.published()
        export(policy, recipe, place.folder / "export")
        status.state = State.STATE_DONE
        logger.info("done", extra={"step": step})


def _leader(recipe: Recipe, place: Place, status: Status, sources: Sources, extra: dict[str, Any]) -> Any:
    def make_feed(bus: Bus, epoch: int) -> Feed:
        return Feed(
            bus,
            RunNames(recipe.run),
            groups_per_step=recipe.algorithm.groups_per_step,
            min_group_fraction=recipe.algorithm.min_group_fraction,
            max_age=recipe.staleness.max_versions,
            sources=sources,
            trained_step=status.step,
            cursor=extra["log_cursor"],
            epoch=epoch,
        )

    def make_server() -> Server:
        return Server(place.name, place.listen, security=place.security, reflection=place.reflection)

    return leading(
        status,
        nats=place.nats,
        weight_sync=place.weight_sync,
        names=RunNames(recipe.run),
        security=place.security,
        make_server=make_server,
        announce=place.announce,
        make_feed=make_feed,
        checkpoints=str(place.checkpoints),
    )


def _next(
    leader: Leader | None, status: Status, sources: Sources, step: int, keeper: Keeper
) -> tuple[str, Prepared | None]:
    """What every rank does next: ("train", the batch on rank 0), ("save" | "end" | "finish" | "wait", None)."""
    command, prepared = "wait", None
    if leader is not None:
        if status.drain_wanted.is_set():
            command = "finish" if status.finish_wanted.is_set() else "end"
        elif status.save_wanted.is_set() and not keeper.busy:
            status.save_wanted.clear()
            command = "save"
        else:
            status.state = State.STATE_WAITING
            groups = leader.batch(step, TICK_SECONDS)
            if groups is not None:
                command, prepared = "train", prepare(groups, sources, step - 1)
    if dist.get_world_size() > 1:
        told = [command]
        dist.broadcast_object_list(told, src=0)
        command = told[0]
    return command, prepared


def _train(
    trainer: Trainer,
    published: Published,
    leader: Leader | None,
    status: Status,
    prepared: Prepared | None,
    step: int,
    device: torch.device,
    keeper: Keeper,
    validation: Validation,
) -> None:
    """One step: train, measure where it is due, report, publish."""
    status.state = State.STATE_TRAINING
    status.step_started_at.GetCurrentTime()
    began = time.monotonic()
    result = trainer.step(broadcast(prepared.batch if prepared else None, device))
    trained = time.monotonic()
    held_out = validation.measure(step, leader)
    tensors = list(published.tensors())
    status.step = step
    if leader is None or prepared is None:
        return
    leader.trained(step)
    report = pb.StepReport(step=step)
    report.version.epoch, report.version.step = status.epoch, step
    report.at.GetCurrentTime()
    numbers = {**prepared.metrics, **{steps.POLICY + k: v for k, v in result.metrics.items()}}
    numbers |= {steps.VALIDATION + k: v for k, v in held_out.items()}
    numbers[steps.LOSS] = result.metrics["loss"]
    numbers[steps.TRAIN_SECONDS] = trained - began
    numbers[steps.STEP_SECONDS] = trained - (status.step_ended or began)  # the first step does not count the start
    status.step_ended = trained
    for key, value in numbers.items():
        report.metrics[key] = value
    keeper.trained(numbers)
    leader.report(report)
    leader.publish(step, tensors, published.adapters)
    tie(step, prepared.trajectories, trained - began)
    _step.set(step)
    _step_seconds.observe(trained - began)
    _tokens.inc(prepared.metrics[steps.TOKENS_TRAINED])


def export_checkpoint(recipe: Recipe, checkpoint: pathlib.Path, target: pathlib.Path) -> None:
    """Writes a checkpoint of the recipe's run as a Hugging Face directory; a collective, like `learn`.

    Raises CheckpointError.
    """
    load_plugins(recipe.plugins)
    policy = make_policy(recipe)
    policy.load(checkpoint)
    export(policy, recipe, target)


def export(policy: Policy, recipe: Recipe, target: pathlib.Path) -> None:
    """Writes the policy as a Hugging Face directory; a collective."""
    if dist.get_rank() == 0:
        hf_export.write(policy.export(), recipe.model.path, target, scores=recipe.trains_reward_model)
    else:
        for _ in policy.export():
            continue
