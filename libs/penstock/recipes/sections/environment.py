"""`environment`: who plays the other side, and which rewards score what the policy does."""

from typing import Any, Literal

from pydantic import Field

from penstock.packages.adapters import Adapter, adapter_of
from penstock.recipes.sections.base import Fraction, Positive, Section


class ServedModel(Section):
    """A trained reward model, served by a process of its own."""

    path: str = Field(
        description="Hugging Face directory: a sequence classifier with one label (reward_model's export)"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: Positive = Field(default=8192, description="tokens of one forward pass, padding included")
    threads: Positive = Field(default=1, description="CPU threads")


class Judge(Section):
    """A chat model that is asked what a completion is worth, served by an engine of its own."""

    path: str = Field(description="Hugging Face model directory, with a chat template; of any vocabulary")
    prompt: str = Field(
        default="Question:\n{prompt}\n\nAnswer:\n{completion}\n\n"
        "How good is the answer? Explain in one sentence, then end with 'Score: N', N from 0 (wrong) to 10 (perfect).",
        min_length=1,
        description="what it is asked: {prompt} is the conversation, {completion} the model's text, {row.NAME} what "
        "the row has under that name",
    )
    system: str | None = Field(default=None, description="its system message")
    read: str = Field(
        default=r"[Ss]core:\**\s*(-?\d+(?:\.\d+)?)",
        description="regular expression; group 1 of its last match in what the judge says is the mark",
    )
    marks: tuple[float, float] = Field(
        default=(0.0, 10.0), description="least and greatest mark: values 0 and 1; a mark outside is not read"
    )
    unread: float | None = Field(
        default=None,
        description="the value where no mark can be read, after a second try; FAILED{reward} if absent",
    )
    max_tokens: Positive = Field(default=256, description="most tokens that it may say")
    temperature: float = Field(default=0.0, ge=0, le=10, description="0 takes its likeliest words")
    max_context: Positive = Field(default=4096, description="most tokens of question and verdict together")
    max_running: Positive = Field(default=64, description="most verdicts in one engine batch")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    replicas: Positive = 1
    memory_gib: float = Field(default=1.0, gt=0, description="KV cache on CPU, in GiB")
    gpu_memory_fraction: Fraction = 0.9
    tensor: Positive = Field(default=1, description="tensor parallel size of one replica")
    threads: Positive = Field(default=1, description="CPU threads of the engine")


class Credentials(Section):
    """What another team's service is shown, and whom it is believed. The run's own secrets never leave its services."""

    token_file: str | None = Field(default=None, description="file with the bearer token that the service wants")
    authority: str | None = Field(default=None, description="PEM file of the authority that signs the service (TLS)")
    certificate: str | None = Field(default=None, description="PEM file of our certificate, where it wants one")
    key: str | None = Field(default=None, description="PEM file of that certificate's key")


class Reward(Section):
    """One part of the reward: one that the environment service hosts, a model, or another team's service."""

    name: str = Field(description="the reward's registered name; for a model any name")
    weight: float = Field(default=1.0, description="the total is the sum of weight x value")
    address: str | None = Field(
        default=None, description="HOST:PORT of a foreign RewardService; our own service if absent"
    )
    credentials: Credentials = Field(default_factory=Credentials)
    model: ServedModel | None = Field(default=None, description="score with this reward model instead")
    judge: Judge | None = Field(default=None, description="score with what this chat model says instead")
    timeout_seconds: float = Field(
        default=30.0, gt=0, description="deadline of one Score call; of a judge, from question to verdict"
    )
    least: float | None = Field(default=None, description="a lower value makes the sample FAILED{reward}")
    greatest: float | None = Field(default=None, description="a higher value does, too")
    components: tuple[str, ...] | None = Field(
        default=None, description="names that the reward's own parts may have; any if absent"
    )

    @property
    def is_served(self) -> bool:
        """Whether somebody else than our environment service gives it."""
        return any(each is not None for each in (self.address, self.model, self.judge))


class Environment(Section):
    """Who plays the other side and who scores."""

    name: str = Field(
        description="registered environment; for multi_turn it drives the episode. LIBRARY:ID is one of another "
        "library, such as reasoning_gym:chain_sum"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="what the other library's environment is made with; see docs/agents"
    )
    multi_turn: bool = Field(
        default=False, description="drive episodes with Reset and Step instead of one prompt, one answer"
    )
    agent: bool = Field(
        default=False,
        description="an agent of that name plays the episode, and calls the policy by an OpenAI-compatible API",
    )
    max_turns: Positive = Field(default=16, description="most model turns of an episode, or calls of an agent")
    special_tokens: bool = Field(
        default=False, description="rewards and the environment see special tokens in what the model says"
    )
    tool_calls: Literal["auto", "text", "hermes", "llama3", "mistral"] = Field(
        default="auto",
        description="the form in which the model's tool calls are read for a multi-turn environment or an agent; auto "
        "takes the chat template's own, and leaves those of Hermes and Qwen in the text of a multi-turn environment; "
        "text leaves all",
    )
    rewards: tuple[Reward, ...] = Field(
        default=(), description="parts of the reward; empty means the reward of the same name"
    )
    address: str | None = Field(
        default=None, description="HOST:PORT of a foreign environment service; our own if absent"
    )
    credentials: Credentials = Field(default_factory=Credentials)
    replicas: Positive = Field(default=1, description="processes of our environment service")
    workers: Positive = Field(default=1, description="worker processes of each environment service")

    @property
    def adapter(self) -> Adapter | None:
        """The library that its name is of, where our adapters play it."""
        return adapter_of(self.name) if self.address is None else None

    @property
    def plays(self) -> bool:
        """Whether it plays the episode and says the reward itself, by turns or as an agent."""
        return self.multi_turn or self.agent
