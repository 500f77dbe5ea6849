"""The whole recipe of a run."""

from typing import Literal

from pydantic import Field

from penstock.recipes import sections as s
from penstock.recipes.methods import Method, method_of


class Recipe(s.Section):
    """Everything about a run. The defaults are those of an asynchronous GRPO run with a staleness of two versions."""

    run: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="the run's name; its directory is runs/<name>")
    mode: Literal["train", "evaluate", "replay"] = Field(
        default="train",
        description="evaluate: measure the model and end; replay: train again from a log (penstock eval and replay "
        "set this)",
    )
    plugins: tuple[str, ...] = Field(
        default=(),
        description="Python files or modules that register losses, advantages, corrections and the like of your own",
    )
    packages: s.Packages = Field(default_factory=s.Packages)
    model: s.Model
    data: s.Data
    environment: s.Environment | None = Field(default=None, description="absent for supervised training")
    mixture: tuple[s.Source, ...] = Field(
        default=(), description="further tasks to draw from; `data` and `environment` are the first source, of weight 1"
    )
    teacher: s.Teacher | None = Field(default=None, description="needed by algorithm.advantage opd, and only there")
    algorithm: s.Algorithm
    staleness: s.Staleness = Field(default_factory=s.Staleness)
    sampling: s.Sampling = Field(default_factory=s.Sampling)
    evaluation: s.Evaluation = Field(default_factory=s.Evaluation)
    learner: s.Learner = Field(default_factory=s.Learner)
    generation: s.Generation = Field(default_factory=s.Generation)
    rollout: s.Rollout = Field(default_factory=s.Rollout)
    gateway: s.Gateway = Field(default_factory=s.Gateway)
    weight_sync: s.WeightSync = Field(default_factory=s.WeightSync)
    limits: s.Limits = Field(default_factory=s.Limits)
    telemetry: s.Telemetry = Field(default_factory=s.Telemetry)
    security: s.Security = Field(default_factory=s.Security)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run; an evaluation has none."""
        return 0 if self.mode == "evaluate" else self.algorithm.steps

    @property
    def sources(self) -> dict[str, "Recipe"]:
        """The recipe as each source of tasks has it, by the source's name: the top level's own first."""
        alone = self.model_copy(update={"mixture": ()})
        first = "data" if self.environment is None else self.environment.name
        return {first: alone, **{source.name: alone._drawing_from(source) for source in self.mixture}}

    @property
    def environments(self) -> list[s.Environment]:
        """Those of all sources."""
        return [r.environment for r in self.sources.values() if r.environment is not None]

    def _drawing_from(self, source: s.Source) -> "Recipe":
        own = (
            "group_size",
            "advantage",
            "advantage_clip",
            "reward_scale",
            "overlong_buffer",
            "truncated_scale",
            "filters",
        )
        algorithm = {key: value for key in own if (value := getattr(source, key)) is not None}
        if source.advantage not in (None, self.algorithm.advantage):
            algorithm["advantage_settings"] = {}  # those of another estimator
        sampling = {} if source.max_tokens is None else {"max_tokens": source.max_tokens}
        return self.model_copy(
            update={
                "data": source.data,
                "environment": source.environment,
                "algorithm": self.algorithm.model_copy(update=algorithm),
                "sampling": self.sampling.model_copy(update=sampling),
            }
        )

    @property
    def method(self) -> Method:
        """What kind of training this is."""
        return method_of(self.algorithm)

    @property
    def rolls_out(self) -> bool:
        """Whether training samples are drawn from the policy (and not read from the data set)."""
        return self.method.draws(self.algorithm)

    @property
    def evaluates(self) -> bool:
        """Whether versions are measured on held-out tasks."""
        measured = any(r.data.eval is not None and r.environment is not None for r in self.sources.values())
        return self.mode != "replay" and measured

    @property
    def validates(self) -> bool:
        """Whether the learner measures its loss on held-out rows: where training reads rows and nobody plays any."""
        return self.mode != "evaluate" and self.data.eval is not None and not (self.rolls_out or self.evaluates)

    @property
    def evaluation_steps(self) -> list[int]:
        """The versions that are measured on held-out rows, in order: the first, the last, and every so many."""
        if not (self.evaluates or self.validates):
            return []
        every, last = self.evaluation.every, self.steps
        return sorted({0, last, *(range(every, last, every) if every else ())})

    @property
    def generates(self) -> bool:
        """Whether anything is sampled from the policy, in training or to measure it."""
        return self.mode != "replay" and (self.rolls_out or self.evaluates)

    @property
    def canary(self) -> s.Canary | None:
        """How versions are tried before they are served; None where they are not."""
        return self.weight_sync.canary if self.mode == "train" else None

    @property
    def trains_reward_model(self) -> bool:
        """Whether what is trained scores answers instead of writing them."""
        return self.method.scores

    @property
    def has_critic(self) -> bool:
        """Whether a second model learns the values that advantages are made of."""
        return self.method.critic

    @property
    def compares_with_reference(self) -> bool:
        """Whether the model the run started from is needed beside the one that is trained."""
        return self.method.compares(self.algorithm)

    @property
    def runs_agents(self) -> bool:
        """Whether an agent plays the episodes of any source, which then call the gateway."""
        return self.generates and any(environment.agent for environment in self.environments)

    @property
    def adapted(self) -> list[s.Environment]:
        """Environments of other libraries, which our adapters play: those of all sources, each name once."""
        found = {e.name: e for e in self.environments if e.adapter is not None}
        return list(found.values()) if self.generates else []

    def measures(self, environment: s.Environment) -> bool:
        """Whether tasks that an environment makes by itself are measured with."""
        return any(r.data.eval == environment.name for r in self.sources.values())

    @property
    def only_foreign_environments(self) -> bool:
        """Whether everybody who plays and scores is another team's service: then none of ours is started."""
        return not any(r._needs_our_environment for r in self.sources.values())

    @property
    def _needs_our_environment(self) -> bool:
        if self.environment is None or self.environment.plays:
            own = self.environment
            return own is None or (own.address is None and own.adapter is None)
        return any(not reward.is_served for reward in self.rewards())

    @property
    def outage_seconds(self) -> float:
        """The time by which groups may outlast their deadline: `limits.outage_seconds` where anything of the run is
        another team's, else 0."""
        ours = (e.address is None and all(r.address is None for r in e.rewards) for e in self.environments)
        return 0.0 if all(ours) else self.limits.outage_seconds

    @property
    def reward_models(self) -> dict[str, s.ServedModel]:
        """The trained models that score, by the name of their reward: those of all sources."""
        rewards = [reward for r in self.sources.values() for reward in r.rewards()]
        return {reward.name: reward.model for reward in rewards if reward.model is not None}

    @property
    def judges(self) -> dict[str, s.Judge]:
        """The chat models that score, as `reward_models`."""
        rewards = [reward for r in self.sources.values() for reward in r.rewards()]
        return {reward.name: reward.judge for reward in rewards if reward.judge is not None}

    @property
    def groups_budget(self) -> int:
        """Most groups admitted but not released: (S + 1) x groups_per_step."""
        return (self.staleness.max_versions + 1) * self.algorithm.groups_per_step

    def rewards(self) -> tuple[s.Reward, ...]:
        """The parts of the reward; by default the one that has the environment's name."""
        if self.environment is None:
            return ()
        return self.environment.rewards or (s.Reward(name=self.environment.name),)
