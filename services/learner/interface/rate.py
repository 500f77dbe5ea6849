"""How the learning rate of each step is found: a schedule with the length of its run, as the ledger records it."""

from dataclasses import dataclass

from penstock.recipes import Recipe
from penstock.recipes.sections import Optimizer
from penstock.trajectory.v1 import trajectory_pb2 as pb


@dataclass(frozen=True)
class Rate:
    """optimizer: of which the learning rate and what belongs to its schedule count. steps: of the run."""

    optimizer: Optimizer
    steps: int

    @staticmethod
    def of(recipe: Recipe) -> "Rate":
        """The policy's."""
        return Rate(recipe.learner.optimizer, recipe.algorithm.steps)

    def recorded(self) -> pb.Schedule:
        """For the record of a batch."""
        o = self.optimizer
        return pb.Schedule(
            learning_rate=o.learning_rate,
            schedule=o.schedule,
            warmup_steps=o.warmup_steps,
            decay_steps=o.decay_steps,
            final_ratio=o.final_ratio,
            steps=self.steps,
        )

    def under(self, schedule: pb.Schedule) -> "Rate":
        """This one as a record has it. Raises ValueError for a record that no learner wrote."""
        said = {
            "learning_rate": schedule.learning_rate,
            "schedule": schedule.schedule,
            "warmup_steps": schedule.warmup_steps,
            "decay_steps": schedule.decay_steps if schedule.HasField("decay_steps") else None,
            "final_ratio": schedule.final_ratio,
        }
        checked = Optimizer.model_validate({**self.optimizer.model_dump(), **said})
        return Rate(checked, schedule.steps)

    def of_critic(self, learning_rate: float) -> "Rate":
        """The critic's beside it: a rate of its own, from the first step on."""
        own = {"learning_rate": learning_rate, "warmup_steps": 0}
        return Rate(self.optimizer.model_copy(update=own), self.steps)
