"""A recipe's chat template, tried before anything starts."""

from penstock.chat import ChatTokenizer
from penstock.recipes import Recipe


def chat_of(recipe: Recipe) -> ChatTokenizer | None:
    """The tokenizer of the recipe's model; None where none can be read yet.

    Raises TemplateError for a chat template that the run could not use.
    """
    try:
        chat = ChatTokenizer(recipe.model.path, recipe.data.thinking, recipe.data.control_tokens)
    except OSError:
        return None  # the learner says what is wrong with the directory
    if any(environment.plays for environment in recipe.environments):
        chat.try_turns()
    return chat


def ends(chat: ChatTokenizer) -> str:
    """The tokens that end a turn, for people."""
    return ", ".join(f"{chat.named(token)} ({token})" for token in chat.stop_tokens)
