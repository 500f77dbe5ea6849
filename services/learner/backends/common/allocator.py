"""Memory that a step has freed goes back to the system, for the engine beside the learner.

On CPUs PyTorch takes what autograd keeps from glibc, which holds on to it in its arenas: a SmolLM2-135M learner kept
4.9 GiB so after a step, in which nothing lay (docs/benchmarks.md). Giving it back takes milliseconds.
"""

import ctypes


def give_back() -> bool:
    """Returns the pages of glibc's arenas that nothing lies in; False where the C library is another one."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and trim(0) >= 0
