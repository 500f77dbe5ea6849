"""The whole recipe of a run."""

from pydantic import Field

from penstock.recipes import sections as s


class Recipe(s.Section):
    """Everything about a run. The defaults are those of an asynchronous GRPO run with a staleness of two versions."""

    run: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="the run's name; its directory is runs/<name>")
    model: s.Model
    data: s.Data
    environment: s.Environment | None = Field(default=None, description="absent for supervised training")
    algorithm: s.Algorithm
    staleness: s.Staleness = Field(default_factory=s.Staleness)
    sampling: s.Sampling = Field(default_factory=s.Sampling)
    evaluation: s.Evaluation = Field(default_factory=s.Evaluation)
    learner: s.Learner = Field(default_factory=s.Learner)
    generation: s.Generation = Field(default_factory=s.Generation)
    rollout: s.Rollout = Field(default_factory=s.Rollout)
    weight_sync: s.WeightSync = Field(default_factory=s.WeightSync)
    limits: s.Limits = Field(default_factory=s.Limits)
    telemetry: s.Telemetry = Field(default_factory=s.Telemetry)

    @property
    def generates(self) -> bool:
        """Whether the run samples from the policy at all (supervised training without evaluation does not)."""
        return self.algorithm.name != "sft" or (self.data.eval is not None and self.environment is not None)

    @property
    def groups_budget(self) -> int:
        """Most groups admitted but not released: (S + 1) x groups_per_step."""
        return (self.staleness.max_versions + 1) * self.algorithm.groups_per_step

    def rewards(self) -> tuple[s.Reward, ...]:
        """The parts of the reward; by default the one that has the environment's name."""
        if self.environment is None:
            return ()
        return self.environment.rewards or (s.Reward(name=self.environment.name),)
