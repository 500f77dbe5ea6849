"""Every external repository of the tree: virtual environments only, nothing from outside the package registries."""

load("//bazel:venv.bzl", "py_venv")

# Name -> accelerator -> lock. "any" serves both; CPU and CUDA stacks have a lock each, chosen by PENSTOCK_ACCELERATOR.
VENVS = {
    "light": {"any": "light"},
    "generation": {"cpu": "generation.cpu", "cuda": "generation.cuda"},
    "learner": {"cpu": "learner.cpu", "cuda": "learner.cuda"},
    "tools": {"any": "tools"},
    "bench": {"any": "bench"},
    "sinks": {"any": "sinks"},
}

def penstock_repositories():
    # Fetched lazily: a venv is made only when a target that names it is analysed.
    for name, locks in VENVS.items():
        py_venv(
            name = "venv_" + name,
            locks = {"//bazel/venvs:%s.lock.txt" % lock: accelerator for accelerator, lock in locks.items()},
        )
