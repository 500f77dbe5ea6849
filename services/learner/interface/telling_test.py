"""What ranks tell each other arrives as it was, and nothing that could run code does."""

import os
import pickle

import pytest
import torch
import torch.distributed as dist

from services.learner.interface.telling import _read, told, told_by_all
from services.learner.testing.forked_ranks import run_ranks

VALUES = [None, "é", 7, 1.5, {"a": {"bytes": 3}}, [("w", torch.Size([2, 3]), torch.bfloat16)], "x" * 100_000]


def talk() -> tuple[list[object], list[list[object]]]:
    rank = dist.get_rank()
    said = [told(value if rank == 1 else None, src=1) for value in VALUES]
    return said, [told_by_all([rank, value] if rank else None) for value in VALUES]


def test_what_one_rank_says_every_rank_hears() -> None:
    for said, gathered in run_ranks(3, talk):
        assert said == VALUES
        assert gathered == [[None, [1, value], [2, value]] for value in VALUES]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


def test_what_is_no_plain_value_is_refused_by_whoever_reads_it() -> None:
    for evil in (pickle.dumps(Evil()), pickle.dumps({"a": Evil()})):
        with pytest.raises(pickle.UnpicklingError):
            _read(torch.frombuffer(bytearray(evil), dtype=torch.uint8))
