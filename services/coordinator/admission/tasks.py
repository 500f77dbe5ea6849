"""Group tasks as functions of the recipe, a number and a draw: a restarted coordinator makes the very same ones."""

import dataclasses
import logging

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.common.v1.common_pb2 import SamplingParams
from penstock.datasets import Dataset, DatasetError, held_out_rows, training_rows
from penstock.ledger import Group
from penstock.names import evaluation_group, group_number, training_group
from penstock.recipes import Recipe
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.admission.draws import Draw, Drawing, Rows

logger = logging.getLogger(__name__)
SHOWN = 10
"""Rows that are left out and told one by one; of the others there is a count."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One source of tasks: the recipe as it has it, and its rows."""

    name: str
    recipe: Recipe
    train: Dataset
    held_out: Dataset | None

    @staticmethod
    def read(name: str, recipe: Recipe) -> "Source":
        """Raises DatasetError for rows that the recipe's method cannot use: before the run starts."""
        source = Source(name, recipe, training_rows(recipe), held_out_rows(recipe))
        for key, rows in (("train", source.train), ("eval", source.held_out)):
            if rows is not None and rows.left_out:
                shown = "; ".join(rows.left_out[:SHOWN])
                logger.warning("data.%s: %d rows are left out: %s", key, len(rows.left_out), shown)
        return source

    def sampling(self, temperature: float) -> SamplingParams:
        """How completions are drawn."""
        s = self.recipe.sampling
        return SamplingParams(
            temperature=temperature, top_p=s.top_p, top_k=s.top_k, max_tokens=s.max_tokens, stop_texts=s.stop
        )


class TaskMaker:
    """Makes the tasks of one run. Raises DatasetError."""

    def __init__(self, recipe: Recipe) -> None:
        self._run = recipe.run
        self._sources = {name: Source.read(name, r) for name, r in recipe.sources.items()}
        weights = [1.0, *(source.weight for source in recipe.mixture)]
        self.drawing = Drawing(
            {
                s.name: Rows(s.train, s.recipe.data.curriculum, weight)
                for s, weight in zip(self._sources.values(), weights, strict=True)
            }
        )

    @property
    def left_out(self) -> list[str]:
        """Rows of all sources that cannot be used, a sentence each."""
        sets = [rows for s in self._sources.values() for rows in (s.train, s.held_out) if rows is not None]
        return [sentence for rows in sets for sentence in rows.left_out]

    def group_size(self, draw: Draw) -> int:
        """Samples of a group of this draw."""
        return self._source(draw).recipe.algorithm.group_size

    def _source(self, draw: Draw) -> Source:
        if draw.source not in self._sources:
            raise DatasetError(
                f"mixture: the run has a group in flight from source {draw.source!r}, which the recipe no longer has "
                f"(it has {', '.join(self._sources)}); keep it until the group is released"
            )
        return self._sources[draw.source]

    def training(self, number: int, draw: Draw, min_step: int, deadline: Timestamp) -> pb.GroupTask:
        """The task of the number-th training group."""
        source = self._source(draw)
        recipe, size = source.recipe, self.group_size(draw)
        task = pb.GroupTask(
            run=self._run,
            group=training_group(number),
            kind=pb.TASK_KIND_TRAIN,
            group_size=size,
            seed=recipe.data.seed * 1_000_003 + number * size,
            deadline=deadline,
            row=draw.row,
        )
        setattr(task, "pass", draw.turn)
        if recipe.algorithm.name == "sft":
            for i in range(size):
                row_of_member = source.train.position(draw.at * size + i)[1]
                task.demonstration.demonstrations.append(source.train.demonstration(row_of_member))
        elif not recipe.rolls_out:
            task.preference.CopyFrom(source.train.preference(draw.row))
        else:
            assert recipe.environment is not None
            task.rollout.task.CopyFrom(source.train.task(draw.row, recipe.environment.name, draw.source))
            task.rollout.sampling.CopyFrom(source.sampling(recipe.sampling.temperature))
            task.rollout.min_step = min_step
        return task

    def admitted(self, group: Group) -> pb.GroupTask:
        """The task of an admitted group, the very one that was published."""
        admitted = group.admitted
        return self.training(group_number(group.name), Draw.recorded(admitted), admitted.min_step, admitted.deadline)

    def evaluation(self, step: int, deadline: Timestamp, again: int = 0) -> list[pb.GroupTask]:
        """The tasks of the evaluation of version `step`: the same rows every time, of every source that holds some
        out. again: how often it was begun before, and ended with nothing said of it."""
        tasks: list[pb.GroupTask] = []
        for source in self._sources.values():
            environment, evaluation = source.recipe.environment, source.recipe.evaluation
            if source.held_out is None or environment is None:
                continue
            for row in range(min(evaluation.tasks, len(source.held_out))):
                task = pb.GroupTask(
                    run=self._run,
                    group=evaluation_group(step, len(tasks), again),
                    kind=pb.TASK_KIND_EVAL,
                    group_size=evaluation.samples_per_task,
                    seed=row * evaluation.samples_per_task,
                    deadline=deadline,
                    row=row,
                )
                task.rollout.task.CopyFrom(source.held_out.task(row, environment.name, source.name))
                task.rollout.sampling.CopyFrom(source.sampling(evaluation.temperature))
                task.rollout.pinned_step = step
                tasks.append(task)
        return tasks
