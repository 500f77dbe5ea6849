"""How long a sample may be: the least of what the model, its engine and the learner's micro-batches hold."""

import dataclasses

from penstock.recipes.checks.paths import positions
from penstock.recipes.recipe import Recipe


class TooLong(ValueError):
    """A sample that does not fit. The text names the sizes and the setting that bounds them."""


@dataclasses.dataclass(frozen=True)
class Longest:
    """The most tokens of a sample, the setting that says so, and whether a longer one is cut."""

    tokens: int
    setting: str
    cut: bool

    @staticmethod
    def of(recipe: Recipe, *, trained: bool) -> "Longest":
        """Of a recipe's samples. trained: whether the learner reads them; those of an evaluation it does not."""
        bounds = []
        if trained:
            bounds.append((recipe.learner.micro_batch_tokens, "learner.micro_batch_tokens"))
        if recipe.generates:
            bounds.append((recipe.generation.max_context, "generation.max_context"))
        if (model := positions(recipe.model.path)) is not None:
            bounds.append((model, "the model's max_position_embeddings"))
        tokens, setting = min(bounds, default=(2**31 - 1, "what an array holds"))
        return Longest(tokens, setting, recipe.data.too_long == "cut")

    def room(self, prompt: int, wanted: int) -> int:
        """Tokens that may be drawn behind a prompt of so many, at most `wanted`. Raises TooLong."""
        left = self.tokens - prompt
        if left >= wanted:
            return wanted
        if left < 1 or not self.cut:
            raise TooLong(
                f"a prompt of {prompt} tokens and {wanted} to draw are more than {self.setting} ({self.tokens}) holds"
                + ("" if self.cut else "; data.too_long: cut gives the answer the room that is left")
            )
        return left

    def kept(self, tokens: int) -> int:
        """How many of a sample's tokens are trained on, from the first. Raises TooLong."""
        if tokens > self.tokens and not self.cut:
            raise TooLong(
                f"{tokens} tokens are more than {self.setting} ({self.tokens}) holds; data.too_long: cut drops the end"
            )
        return min(tokens, self.tokens)
