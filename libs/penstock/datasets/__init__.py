"""Data sets as people have them: rows, what a row means, and its tokens."""

from penstock.datasets.dataset import Dataset
from penstock.datasets.reading import DatasetError
from penstock.datasets.tokenising import tokenise
from penstock.datasets.trying import held_out_rows, training_rows

__all__ = ["Dataset", "DatasetError", "held_out_rows", "tokenise", "training_rows"]
