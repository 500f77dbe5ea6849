"""The learner's life on every rank: build, resume, then step after step until the run is done or asked to end.

Rank 0 decides what comes next and tells the others; they wait in a broadcast that is never longer than TICK_SECONDS,
because rank 0 sends "wait" while it has no batch. So no collective waits for the network.
"""

import collections
import dataclasses
import logging
import pathlib
import signal
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from google.protobuf.json_format import MessageToJson, Parse

from penstock.recipes import Recipe
from penstock.system.boot import boot_id
from penstock.telemetry.waits import computing
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.method import Trainer
from services.learner.algorithms.plugins import load_plugins
from services.learner.algorithms.sources import Sources
from services.learner.algorithms.table import make_trainer
from services.learner.backends.choose import make_critic, make_policy
from services.learner.checkpoints.actor_critic import ActorCritic
from services.learner.checkpoints.keeper import Keeper
from services.learner.checkpoints.measured import Measured, first_measured
from services.learner.checkpoints.resume import Resume, load_newest
from services.learner.huggingface import export as hf_export
from services.learner.interface.batch import broadcast
from services.learner.interface.errors import CannotGoOn
from services.learner.interface.policy import Policy
from services.learner.interface.rate import Rate
from services.learner.interface.telling import told
from services.learner.leader.idle import Idle
from services.learner.leader.leader import Addresses, Command, Leader, leading
from services.learner.leader.preparation import Prepared
from services.learner.leader.status import State, Status
from services.learner.leader.trained import Trained
from services.learner.probes import probes_of
from services.learner.publishing.following import Follower
from services.learner.publishing.publish import weights_of
from services.learner.publishing.together import Together, ranks
from services.learner.validation import Validation

logger = logging.getLogger(__name__)

TICK_SECONDS = 5.0
FIRST_STEP_SECONDS, LEAST_SECONDS = 1800.0, 60.0
"""Until a step is no longer taken for one that goes on: the first, which compiles and allocates; and any other, at
least."""


def learn(recipe: Recipe, folder: pathlib.Path, addresses: Addresses, at: Callable[[str], None]) -> None:
    """Trains to the recipe's last step. torch.distributed is initialised; every rank calls this.

    folder: the run's. at: told what this rank is about to do, for those who wonder why it does not come on.
    """
    load_plugins(recipe.plugins)
    at("loading the model")
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    policy = make_policy(recipe)
    critic = make_critic(recipe, policy)
    saved = policy if critic is None else ActorCritic(policy, critic)
    trainer = make_trainer(recipe, policy, critic)
    # What is older than the newest few may need samples that are not in the log any more.
    among = None if recipe.limits.keep_log else recipe.learner.checkpoints.keep
    found = load_newest(folder / "checkpoints", saved.load, among)
    resume = Resume() if found is None else Resume.of(found[1])
    status = Status(recipe.algorithm.steps, step=resume.step, checkpoint_step=resume.step or None)
    sources = Sources.of(recipe)
    validation = Validation.of(recipe, sources, trainer, device)
    together = ranks()
    leads: AbstractContextManager[Leader] = nullcontext(Idle())
    if dist.get_rank() == 0:
        folders = folder / "checkpoints"
        leads = leading(recipe, addresses, status, sources, resume.position, policy.takes, folders, together)
    elif isinstance(together, Together):
        follower = Follower(together, addresses.security, boot_id(), recipe.weight_sync.full_every)
        leads = nullcontext(Idle(follower))
    with leads as leader:
        signal.signal(signal.SIGTERM, lambda *_: status.evicted.set())
        logger.info("learning from step %d", resume.step, extra={"epoch": status.epoch})
        keeper = Keeper(
            folder / "checkpoints",
            recipe.learner.checkpoints,
            saved,
            leader,
            dataclasses.replace(resume, epoch=status.epoch),
            recipe.limits.keep_log,
            status.saved,
            Measured(recipe.learner.checkpoints, first_measured(recipe, resume.step)),
        )
        if told(leader.lacks(resume.step)):
            at("publishing the version that it goes on with")
            leader.publish(resume.step, list(weights_of(recipe, policy)))
        life = Life(recipe, policy, critic, trainer, validation, leader, keeper, status, device, at)
        if life.steps(resume.step):
            at("ending")
            keeper.finish(status.step)
            leader.settle()
            export(policy, recipe, folder / "export")
            status.state = State.STATE_DONE
            logger.info("done", extra={"step": status.step})
    if status.ends_early:
        raise Evicted(f"told to end at step {status.step}, and the run goes on")


class Evicted(Exception):
    """SIGTERM came to the process of a run that is not over: whoever keeps it is to start it again."""


@dataclasses.dataclass(frozen=True)
class Life:
    """One rank's steps; every method is a collective. took: seconds of the last steps."""

    recipe: Recipe
    policy: Policy
    critic: Policy | None
    trainer: Trainer
    validation: Validation
    leader: Leader
    keeper: Keeper
    status: Status
    device: torch.device
    at: Callable[[str], None]
    took: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=9))

    def steps(self, step: int) -> bool:
        """Trains from `step` on; whether what it made is to be exported, or the run was asked to end as it is."""
        if step == 0:
            self.at("measuring held-out rows")
            self.validation.measure(0, self.leader)
        while step < self.recipe.algorithm.steps:
            self.keeper.collect()
            self.at(f"waiting for the batch of step {step + 1}")
            command, prepared = self._next(step + 1)
            match command:
                case Command.END:
                    self.keeper.finish(step)
                    self.leader.leave()
                    return False
                case Command.FINISH:
                    return True
                case Command.PUBLISH:
                    self.at(f"publishing version {step}, for engines that have no weights")
                    self.leader.publish(step, list(weights_of(self.recipe, self.policy)))
                case Command.SAVE:
                    self.at(f"copying the state of step {step}")
                    self.status.state = State.STATE_SAVING
                    self.keeper.begin(step)
                case Command.TRAIN:
                    step += 1
                    self.at(f"training step {step}")
                    self._train(step, prepared)
                    if step % self.recipe.learner.checkpoints.every == 0:
                        self.status.save_wanted.set()
        return True

    def _next(self, step: int) -> tuple[Command, Prepared | None]:
        """What every rank does next, and on rank 0 the batch where that is to train."""
        command, prepared = self.leader.next(step, TICK_SECONDS, self.keeper.busy)
        schedule = prepared.schedule if prepared else None
        if dist.get_world_size() > 1:
            word, written = told((command.value, "" if schedule is None else MessageToJson(schedule, indent=None)))
            command, schedule = Command(word), Parse(written, pb.Schedule()) if written else None
        if command is Command.TRAIN:
            self._follow(schedule)
        return command, prepared

    def _follow(self, schedule: pb.Schedule | None) -> None:
        """The next step's learning rate is that which was recorded with its batch; the recipe's where none was."""
        own = Rate.of(self.recipe)
        try:
            rate = own if schedule is None else own.under(schedule)
        except ValueError as error:
            raise CannotGoOn(f"a batch was recorded with a schedule that no learner wrote: {error}") from error
        self.policy.optimizer.rate = rate
        if self.critic is not None:
            self.critic.optimizer.rate = rate.of_critic(self.recipe.algorithm.critic.learning_rate)

    def _train(self, step: int, prepared: Prepared | None) -> None:
        """One step: train, measure where it is due, report, publish."""
        self.status.state = State.STATE_TRAINING
        self.status.step_started_at.GetCurrentTime()
        usual = statistics.median(self.took) if self.took else None
        limit = FIRST_STEP_SECONDS if usual is None else max(LEAST_SECONDS, 10 * usual)
        began = time.monotonic()
        with computing(f"step {step}", usual=usual, deadline=limit):
            batch = broadcast(prepared.batch if prepared else None, self.device)
            result = self.trainer.step(batch)
            if self.recipe.algorithm.reference.due(step):
                self.policy.follow(self.recipe.algorithm.reference.mix)
            ended = time.monotonic()
            probes = probes_of(self.recipe, self.policy, batch)
            held_out = self.validation.measure(step, self.leader)
        self.took.append(ended - began)
        tensors = list(weights_of(self.recipe, self.policy))
        self.status.step = step
        trained = Trained(step, prepared, result, held_out, began, ended, probes)
        self.keeper.trained(step, self.leader.stepped(trained, tensors))


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
        scoring = policy.architecture if recipe.trains_reward_model else ""
        hf_export.write(policy.export(), recipe.model.path, target, scoring)
    else:
        for _ in policy.export():
            continue
