"""The same repositories for Bzlmod. A file of its own: Bazel 4.2.3 knows no module_extension."""

load("//bazel:repositories.bzl", "penstock_repositories")

def _venvs(_):
    penstock_repositories()

venvs = module_extension(implementation = _venvs)
