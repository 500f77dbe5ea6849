"""`model`: the policy a run starts from."""

from typing import Literal

from pydantic import Field

from penstock.recipes.sections.base import Section


class Model(Section):
    """The policy a run starts from."""

    path: str = Field(description="Hugging Face model directory")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="type of the weights in training and generation; fp32 main weights are kept beside the short ones, "
        "and float16 is trained with dynamic loss scaling",
    )
