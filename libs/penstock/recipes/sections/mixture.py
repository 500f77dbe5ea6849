"""`mixture`: further tasks beside the recipe's own. It stands apart because it is made of three other sections."""

from pydantic import Field

from penstock.recipes.sections.algorithm import Filters
from penstock.recipes.sections.base import Fraction, Positive, Section
from penstock.recipes.sections.data import Data
from penstock.recipes.sections.environment import Environment


class Source(Section):
    """Further tasks, drawn beside those of `data` and `environment`; what it leaves out is as the recipe's own."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,63}$", description="unique; metrics and samples carry it")
    weight: float = Field(default=1.0, gt=0, description="share of groups, beside 1 for data and environment")
    data: Data
    environment: Environment
    group_size: Positive | None = None
    max_tokens: Positive | None = Field(default=None, description="most tokens of one completion")
    advantage: str | None = Field(default=None, description="as algorithm.advantage, over this source's groups alone")
    advantage_clip: float | None = Field(default=None, gt=0, description="as algorithm.advantage_clip")
    reward_scale: float | None = Field(default=None, gt=0, description="as algorithm.reward_scale")
    overlong_buffer: int | None = Field(default=None, ge=0, description="as algorithm.overlong_buffer")
    truncated_scale: Fraction | None = Field(default=None, description="as algorithm.truncated_scale")
    filters: Filters | None = Field(default=None, description="as algorithm.filters")
