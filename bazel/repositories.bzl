"""Every external repository of the tree: virtual environments only, nothing from outside the package registries."""

load("//bazel:environments.bzl", "VENVS")
load("//bazel:venv.bzl", "py_venv")

def penstock_repositories():
    # Fetched lazily: a venv is made only when a target that names it is analysed.
    for name, locks in VENVS.items():
        py_venv(
            name = "venv_" + name,
            locks = {"//bazel/venvs:%s.lock.txt" % lock: accelerator for accelerator, lock in locks.items()},
        )
