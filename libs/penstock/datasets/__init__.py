"""Data sets as people have them: rows, what a row means, and its tokens."""

from penstock.datasets.dataset import Dataset
from penstock.datasets.reading import DatasetError
from penstock.datasets.tokenising import tokenise

__all__ = ["Dataset", "DatasetError", "tokenise"]
