"""The virtual environments: name -> accelerator -> lock in bazel/venvs.

"any" serves both accelerators; CPU and CUDA stacks have a lock each, chosen by PENSTOCK_ACCELERATOR.
"""

VENVS = {
    "light": {"any": "light"},
    "generation": {"cpu": "generation.cpu", "cuda": "generation.cuda"},
    "learner": {"cpu": "learner.cpu", "cuda": "learner.cuda"},
    "adapters": {"any": "adapters"},
    "tools": {"any": "tools"},
    "bench": {"any": "bench"},
    "sinks": {"any": "sinks"},
}
