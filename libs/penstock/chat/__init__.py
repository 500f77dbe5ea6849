"""Chat messages to tokens and back, once: a token the model drew is never tokenised again."""

from penstock.chat.tokenizer import ChatTokenizer, TemplateError

__all__ = ["ChatTokenizer", "TemplateError"]
