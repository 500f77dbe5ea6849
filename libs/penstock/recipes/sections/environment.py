"""`environment`: who plays the other side, and which rewards score what the policy does."""

from typing import Literal

from pydantic import Field

from penstock.recipes.sections.base import Positive, Section


class ServedModel(Section):
    """A trained reward model, served by a process of its own."""

    path: str = Field(
        description="Hugging Face directory: a sequence classifier with one label (reward_model's export)"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: Positive = Field(default=8192, description="tokens of one forward pass, padding included")
    threads: Positive = Field(default=1, description="CPU threads")


class Credentials(Section):
    """What another team's service is shown, and whom it is believed. The run's own secrets never leave its services."""

    token_file: str | None = Field(default=None, description="file with the bearer token that the service wants")
    authority: str | None = Field(default=None, description="PEM file of the authority that signs the service (TLS)")
    certificate: str | None = Field(default=None, description="PEM file of our certificate, where it wants one")
    key: str | None = Field(default=None, description="PEM file of that certificate's key")


class Reward(Section):
    """One part of the reward: one that the environment service hosts, a trained model, or another team's service."""

    name: str = Field(description="the reward's registered name; for a model any name")
    weight: float = Field(default=1.0, description="the total is the sum of weight x value")
    address: str | None = Field(
        default=None, description="HOST:PORT of a foreign RewardService; our own service if absent"
    )
    credentials: Credentials = Field(default_factory=Credentials)
    model: ServedModel | None = Field(default=None, description="score with this reward model instead")
    timeout_seconds: float = Field(default=30.0, gt=0, description="deadline of one Score call")
    least: float | None = Field(default=None, description="a lower value makes the sample FAILED{reward}")
    greatest: float | None = Field(default=None, description="a higher value does, too")
    components: tuple[str, ...] | None = Field(
        default=None, description="names that the reward's own parts may have; any if absent"
    )


class Environment(Section):
    """Who plays the other side and who scores."""

    name: str = Field(description="registered environment; for multi_turn it drives the episode")
    multi_turn: bool = Field(
        default=False, description="drive episodes with Reset and Step instead of one prompt, one answer"
    )
    max_turns: Positive = Field(default=16, description="most model turns of an episode")
    special_tokens: bool = Field(
        default=False, description="rewards and the environment see special tokens in what the model says"
    )
    tool_calls: Literal["auto", "text", "hermes", "llama3", "mistral"] = Field(
        default="auto",
        description="the form in which the model's tool calls are read for a multi-turn environment; auto takes the "
        "chat template's own, and leaves those of Hermes and Qwen in the text; text leaves all",
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
