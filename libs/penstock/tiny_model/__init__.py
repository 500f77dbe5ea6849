"""A tiny language model and task, made locally: what the quickstart and the tests train for real."""

from penstock.tiny_model.make import make_assets, make_model

__all__ = ["make_assets", "make_model"]
