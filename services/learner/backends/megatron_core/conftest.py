"""The parity tests end with a table of the largest errors."""

from services.learner.testing.parity_table import pytest_terminal_summary

__all__ = ["pytest_terminal_summary"]
