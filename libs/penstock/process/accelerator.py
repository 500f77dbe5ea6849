"""Whether an environment was made for what this host computes with. Pure but for `check_accelerator`.

An environment for CUDA on a host without a GPU is another image's mistake, and would end in a library's traceback, or
compute for days on a CPU; one for CPUs on a host with GPUs may be meant.
"""

import importlib.metadata

from penstock.system.gpus import gpus


class WrongAccelerator(ValueError):
    """The environment cannot compute on this host, in one sentence."""


def wrong_accelerator(torch: str, there: int) -> str:
    """Why an environment cannot compute here; empty where it can. torch: its version; there: GPUs of the host."""
    if there or "+cpu" in torch:
        return ""
    return (
        f"this environment is for CUDA (torch {torch}), and this host has no GPU: start the environment for CPUs "
        "(an image ...-cpu; PENSTOCK_ACCELERATOR=cpu for Bazel), or give it one"
    )


def check_accelerator() -> None:
    """Raises WrongAccelerator."""
    if wrong := wrong_accelerator(importlib.metadata.version("torch"), gpus()):
        raise WrongAccelerator(wrong)
