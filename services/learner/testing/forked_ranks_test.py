"""Ranks that a library's crash ended run once more, and no more than once; what fails by itself does not."""

import os
import pathlib
import signal

import pytest

from services.learner.testing.forked_ranks import RankFailed, run_ranks


def _crash(folder: pathlib.Path, times: int) -> int:
    before = len(list(folder.iterdir()))
    (folder / str(before)).touch()
    if before < times:
        os.kill(os.getpid(), signal.SIGSEGV)
    return before


@pytest.mark.filterwarnings("ignore:ranks ended with")
def test_ranks_that_crash_once_run_once_more(tmp_path: pathlib.Path) -> None:
    assert run_ranks(1, _crash, tmp_path, 1) == [1]


@pytest.mark.filterwarnings("ignore:ranks ended with")
def test_ranks_that_crash_again_have_failed(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RankFailed, match=r"ranks ended with \[-11\]"):
        run_ranks(1, _crash, tmp_path, 9)
    assert len(list(tmp_path.iterdir())) == 2


def _raise(folder: pathlib.Path) -> None:
    (folder / str(len(list(folder.iterdir())))).touch()
    raise ValueError("of its own")


def test_ranks_that_fail_by_themselves_run_once(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RankFailed, match="of its own"):
        run_ranks(1, _raise, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
