"""`data`: the rows to train on and to measure with, and which of them are drawn again."""

from typing import Literal

from pydantic import Field

from penstock.recipes.sections.base import Fraction, Positive, Section
from penstock.rules import bounds


class Curriculum(Section):
    """Which rows are drawn again, by how their groups were rewarded before. Rewards are taken as pass rates: 0 to 1."""

    retire_at: float = Field(default=1.0, description="a row is solved when its group's mean reward is at least this")
    retire_after: int = Field(
        default=0,
        ge=0,
        le=bounds.ROW_REWARDS,
        description="a row solved in so many groups in a row is drawn no more; 0 retires none",
    )
    focus: Fraction = Field(
        default=0.0,
        description="0 draws all rows alike; 1 draws a row of pass rate p with chance 4 p (1 - p): most at one half",
    )
    least: Fraction = Field(default=0.1, description="with focus: the least chance of a row, so that none is forgotten")


PROMPT = "{prompt}"


class Data(Section):
    """What to train on and to measure with: JSON Lines, parquet, or a Hugging Face dataset's directory."""

    train: str = Field(
        description="training rows: a file, a pattern of parquet files, or a directory; or the environment's name, "
        "where its library makes tasks by number, of which limit says how many (10000 if absent)"
    )
    eval: str | None = Field(default=None, description="held-out rows, likewise")
    prompt: str = Field(
        default=PROMPT,
        description="user message of a row; {field} is replaced by the row's field. Another than the default is used "
        "even where a row has a conversation",
    )
    messages: str = Field(
        default="messages", description="the field with a row's conversation: role and content, or from and value"
    )
    cut_answer: bool = Field(
        default=False,
        description="for rollouts: take a conversation that ends with the assistant without that answer; such rows are "
        "refused otherwise",
    )
    completion: str = Field(default="{target}", description="assistant message of a row (sft, and dpo with `label`)")
    system: str | None = Field(default=None, description="system message of all rows that have none of their own")
    train_on: tuple[Literal["assistant", "user", "system", "tool", "all"], ...] = Field(
        default=("assistant",), min_length=1, description="roles whose messages are trained on (sft)"
    )
    thinking: bool | None = Field(
        default=None,
        description="whether the template lets the model think, in rollouts and demonstrations; its own way if absent",
    )
    control_tokens: bool = Field(
        default=False,
        description="let text of rows, tools and environments become control tokens such as <|im_end|>; only for data "
        "that you trust",
    )
    check: Literal["all"] | Positive = Field(
        default="all",
        description="rows that are tried before the run starts: all, or the first so many; a bad row behind them ends "
        "the run when it is drawn",
    )
    bad_rows: Literal["refuse", "skip"] = Field(
        default="refuse",
        description="a row that cannot be used refuses the run, or is left out and told (needs data.check: all)",
    )
    too_long: Literal["fail", "cut"] = Field(
        default="fail",
        description="a sample longer than the model, its engine or a micro-batch holds is FAILED{invalid}, or cut at "
        "its end; in a rollout the answer gets the room that the prompt leaves",
    )
    seed: int = Field(default=0, description="seed of the order of rows")
    shuffle: bool = Field(
        default=True, description="draw rows in a new seeded order every pass; false keeps the file's order"
    )
    limit: Positive | None = Field(default=None, description="train on the first so many rows; all if absent")
    curriculum: Curriculum = Field(default_factory=Curriculum)
