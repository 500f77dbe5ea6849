"""py_venv: a repository rule that turns a hash-pinned requirements lock into a virtual environment.

The repository exposes one small file, @<name>//:venv.json (lock hash, Python version, platform). Targets depend
on that file only; their launchers follow it to the venv beside it. So a changed lock re-makes the venv and re-runs
the tests, while the sandbox never has to link thousands of site-packages files.

Variables (pass with --repo_env):
    PENSTOCK_ACCELERATOR   cpu (default) or cuda: which lock is installed where there is one for each.
    PENSTOCK_PYTHON        an interpreter to use instead of python3.11 on PATH.
    PENSTOCK_VENV_<NAME>   an interpreter that already has the stack (a container image's); nothing is installed.
"""

load("//bazel:environments.bzl", "VENVS")

_PYTHON = "3.11"

_BUILD = """\
package(default_visibility = ["//visibility:public"])

exports_files(["venv.json"])
"""

_PROBE = "import sys; print('%d.%d' % sys.version_info[:2]); print(sys.executable)"

def _find_python(rctx):
    tried = []
    for candidate in [rctx.os.environ.get("PENSTOCK_PYTHON", ""), "python" + _PYTHON, "python3"]:
        if not candidate:
            continue
        path = candidate if candidate.startswith("/") else rctx.which(candidate)
        if not path:
            continue
        probe = rctx.execute([path, "-c", _PROBE])
        lines = probe.stdout.strip().split("\n")
        if probe.return_code == 0 and lines[0] == _PYTHON:
            return lines[1]
        tried.append("%s -> %s" % (path, lines[0] or probe.stderr.strip()))
    fail("no Python %s found (tried: %s). Put python%s on PATH or pass --repo_env=PENSTOCK_PYTHON=/path/to/python%s" % (
        _PYTHON,
        ", ".join(tried),
        _PYTHON,
        _PYTHON,
    ))

def _lock(rctx):
    accelerator = rctx.os.environ.get("PENSTOCK_ACCELERATOR", "") or "cpu"
    if accelerator not in ["cpu", "cuda"]:
        fail("PENSTOCK_ACCELERATOR is \"%s\"; it must be cpu or cuda" % accelerator)
    chosen = None
    for label, name in rctx.attr.locks.items():
        # path(label) makes every lock an input: a change re-makes the venv. From Bazel 8 on that must be said.
        path = rctx.path(label)
        if hasattr(rctx, "watch"):
            rctx.watch(path)
        if name in ["any", accelerator]:
            chosen = path
    return chosen

def _py_venv_impl(rctx):
    lock = _lock(rctx)
    script = rctx.path(rctx.attr._script)
    installer = rctx.path(rctx.attr._installer)
    build = rctx.path(rctx.attr._build)  # which the script finds beside the installer's
    if hasattr(rctx, "watch"):
        rctx.watch(script)
        rctx.watch(installer)
        rctx.watch(build)
    name = str(rctx.path(".").basename).split("venv_")[-1]
    prebuilt = rctx.os.environ.get("PENSTOCK_VENV_" + name.upper(), "")
    rctx.report_progress("making the venv of %s" % lock.basename)
    result = rctx.execute(
        [_find_python(rctx), "-I", script, lock, rctx.path("."), installer, prebuilt],
        timeout = 3600,  # the default of 600 s is too short for CUDA stacks
        quiet = True,
    )
    if result.return_code:
        fail("making the venv from %s failed:\n%s\n%s" % (lock, result.stdout, result.stderr))
    rctx.file("BUILD.bazel", _BUILD, executable = False)

py_venv = repository_rule(
    implementation = _py_venv_impl,
    attrs = {
        "locks": attr.label_keyed_string_dict(mandatory = True, allow_files = True, doc = "lock -> any, cpu or cuda"),
        "_build": attr.label(default = "//bazel/venvs:build.lock.txt", allow_single_file = True),
        "_script": attr.label(default = "//bazel:make_venv.py", allow_single_file = True),
        "_installer": attr.label(default = "//bazel/venvs:installer.lock.txt", allow_single_file = True),
    },
    # Only these re-make the venv when they change. PATH is left out on purpose.
    environ = [
        "PENSTOCK_ACCELERATOR",
        "PENSTOCK_PYTHON",
    ] + ["PENSTOCK_VENV_" + name.upper() for name in VENVS],
)
