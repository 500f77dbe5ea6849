"""Held-out rows that the learner measures itself: the loss of supervised training, pairs and reward models.

They take the way of training rows, data set → template → tokens → groups → samples, once, when the learner starts; then
they are one batch, scored in micro-batches like any other. What a measurement says is appended to the ledger as an
evaluation, first writer wins: a learner that trains recorded steps again measures the very same and changes nothing.
"""

import logging
from collections.abc import Collection

import torch
import torch.distributed as dist

from penstock.chat import ChatTokenizer
from penstock.datasets import Dataset, DatasetError, held_out_rows, tokenise
from penstock.names import evaluation_group
from penstock.recipes import Longest, Recipe
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.learner.algorithms.method import MeasuringTrainer, Trainer
from services.learner.algorithms.sources import Sources
from services.learner.interface.batch import Batch, broadcast
from services.learner.interface.group import CompleteGroup, Member
from services.learner.leader.leader import Leader

logger = logging.getLogger(__name__)


class Validation:
    """When held-out rows are measured, and the rows; nothing where the recipe measures none."""

    def __init__(self, trainer: MeasuringTrainer | None, batch: Batch | None, steps: Collection[int]) -> None:
        """batch: the same on every rank, on its device."""
        self._trainer, self._batch, self._steps = trainer, batch, frozenset(steps)

    @staticmethod
    def of(recipe: Recipe, sources: Sources, trainer: Trainer, device: torch.device) -> "Validation":
        """A collective. Raises DatasetError on rank 0 if no row can be used."""
        if not recipe.validates:
            return Validation(None, None, ())
        assert isinstance(trainer, MeasuringTrainer), "the recipe validates where rows are trained"
        batch = held_out_batch(recipe, sources) if dist.get_rank() == 0 else None
        return Validation(trainer, broadcast(batch, device), recipe.evaluation_steps)

    def measure(self, step: int, leader: Leader) -> dict[str, float]:
        """What the rows say of version `step`, appended to the ledger by the leader; empty where none is due. A
        collective."""
        if self._trainer is None or self._batch is None or step not in self._steps:
            return {}
        metrics = self._trainer.measure(self._batch)
        report = pb.EvaluationReport(step=step, samples=self._batch.sequences, metrics=metrics)
        report.at.GetCurrentTime()
        leader.evaluated(report)
        logger.info("measured held-out rows", extra={"step": step, **metrics})
        return metrics


def held_out_batch(recipe: Recipe, sources: Sources) -> Batch:
    """The first `evaluation.tasks` rows of data.eval. Raises DatasetError if none of them can be used."""
    rows = held_out_rows(recipe)
    assert rows is not None
    chat = ChatTokenizer(recipe.model.path, recipe.data.thinking, recipe.data.control_tokens)
    groups, why = [], "no two answers of a row differ"
    for row in range(min(recipe.evaluation.tasks, len(rows))):
        members = tuple(Member(t, 0) for t in _trajectories(recipe, rows, row, chat))
        group = CompleteGroup(f"row {row + 1}", members)
        for member in members:
            if not member.usable:
                why = f"{rows.at(row)}: {member.trajectory.outcome.detail}"
                logger.warning("a held-out row is left out: %s", why)
        if len(group.usable) == len(members) and sources.filter_reason(group) is None:
            groups.append(group)
    if not groups:
        raise DatasetError(f"data.eval: none of {len(rows)} rows can be measured ({why})")
    return sources.batch(groups)


def _trajectories(recipe: Recipe, rows: Dataset, row: int, chat: ChatTokenizer) -> list[pb.Trajectory]:
    """The row's demonstration, or its ranked answers."""
    task = pb.GroupTask(run=recipe.run, group=evaluation_group(0, row), kind=pb.TASK_KIND_EVAL, group_size=1)
    if recipe.method.name == "supervised":
        task.demonstration.demonstrations.append(rows.demonstration(row))
    else:
        task.preference.CopyFrom(rows.preference(row))
        task.group_size = len(task.preference.answers)
    longest, roles = Longest.of(recipe, trained=True), recipe.data.train_on
    return [tokenise(chat, recipe.model.path, task, i, longest, roles) for i in range(task.group_size)]
