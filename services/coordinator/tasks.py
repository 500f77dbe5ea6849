"""Group tasks as functions of the recipe and a number: a restarted coordinator makes the very same ones."""

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.common.v1.common_pb2 import SamplingParams
from penstock.recipes import Recipe
from penstock.trajectory.v1 import trajectory_pb2 as pb
from services.coordinator.dataset import Dataset, DatasetError


def group_name(number: int) -> str:
    """The name of the number-th training group; names sort as numbers do."""
    return f"g{number:08d}"


def group_number(name: str) -> int:
    """The inverse of group_name."""
    return int(name[1:])


class TaskMaker:
    """Makes the tasks of one run."""

    def __init__(self, recipe: Recipe, train: Dataset, held_out: Dataset | None) -> None:
        self._recipe, self._train, self._held_out = recipe, train, held_out
        if not recipe.rolls_out:
            for row in range(len(train)):  # a row that cannot be used stops the run before it starts
                self._check(row)
        self._sampling = SamplingParams(
            temperature=recipe.sampling.temperature,
            top_p=recipe.sampling.top_p,
            top_k=recipe.sampling.top_k,
            max_tokens=recipe.sampling.max_tokens,
        )

    def training(self, number: int, min_step: int, deadline: Timestamp) -> pb.GroupTask:
        """The task of the number-th training group."""
        size = self._recipe.algorithm.group_size
        turn, row = self._train.position(number)
        task = pb.GroupTask(
            run=self._recipe.run,
            group=group_name(number),
            kind=pb.TASK_KIND_TRAIN,
            group_size=size,
            seed=self._recipe.data.seed * 1_000_003 + number * size,
            deadline=deadline,
        )
        setattr(task, "pass", turn)
        task.row = row
        if self._recipe.algorithm.name == "sft":
            for i in range(size):
                row_of_member = self._train.position(number * size + i)[1]
                task.demonstration.demonstrations.append(self._train.demonstration(row_of_member))
        elif not self._recipe.rolls_out:
            task.preference.CopyFrom(self._train.preference(row))
        else:
            assert self._recipe.environment is not None
            task.rollout.task.CopyFrom(self._train.task(row, self._recipe.environment.name))
            task.rollout.sampling.CopyFrom(self._sampling)
            task.rollout.min_step = min_step
        return task

    def _check(self, row: int) -> None:
        """Raises DatasetError for a row that the recipe's method cannot use."""
        if self._recipe.algorithm.name == "sft":
            self._train.demonstration(row)
            return
        answers = len(self._train.preference(row).answers)
        if answers != self._recipe.algorithm.group_size:
            raise DatasetError(
                f"{self._train.path}, line {row + 1}: has {answers} answers; algorithm.group_size is "
                f"{self._recipe.algorithm.group_size}"
            )

    def evaluation(self, step: int, deadline: Timestamp) -> list[pb.GroupTask]:
        """The tasks of the evaluation of version `step`: the same rows every time."""
        if self._held_out is None or self._recipe.environment is None:
            return []
        evaluation = self._recipe.evaluation
        tasks = []
        for row in range(min(evaluation.tasks, len(self._held_out))):
            task = pb.GroupTask(
                run=self._recipe.run,
                group=f"e{step:08d}-{row}",
                kind=pb.TASK_KIND_EVAL,
                group_size=evaluation.samples_per_task,
                seed=row * evaluation.samples_per_task,
                deadline=deadline,
                row=row,
            )
            task.rollout.task.CopyFrom(self._held_out.task(row, self._recipe.environment.name))
            task.rollout.sampling.CopyFrom(self._sampling)
            task.rollout.sampling.temperature = evaluation.temperature
            task.rollout.pinned_step = step
            tasks.append(task)
        return tasks
