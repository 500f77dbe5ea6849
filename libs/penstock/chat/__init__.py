"""A model's tokenizer and chat template, turn by turn."""

from penstock.chat.template import TemplateError
from penstock.chat.texts import HasText, Texts, keep
from penstock.chat.tokenizer import ChatTokenizer

__all__ = ["ChatTokenizer", "HasText", "TemplateError", "Texts", "keep"]
