"""The only file that BUILD files load from."""

load("//bazel:proto.bzl", _proto_folder = "proto_folder", _py_grpc_library = "py_grpc_library")
load("//bazel:py.bzl", "pytest_test", "venv_tool_test", _py_binary = "py_binary", _py_library = "py_library")
load("//bazel:wheel.bzl", _py_wheel = "py_wheel")

proto_folder = _proto_folder
py_grpc_library = _py_grpc_library
py_wheel = _py_wheel

def _venv(name):
    return "@venv_%s//:venv.json" % name

def _import_roots():
    """libs/ is an import root (`penstock.…`); everything else is imported from the repository root."""
    return ["libs"] if native.package_name().startswith("libs/") else [""]

def _visibility():
    """A service is imported by nobody but itself."""
    package = native.package_name().split("/")
    if package[0] == "services":
        return ["//services/%s:__subpackages__" % package[1]]
    return ["//:__subpackages__"]

def py_library(name, **kwargs):
    _py_library(name = name, import_roots = _import_roots(), **kwargs)

def py_binary(name, venv = "light", **kwargs):
    """A program: `module` run with python -m in the named venv."""
    _py_binary(name = name, venv = _venv(venv), **kwargs)

def py_pytest_test(name, srcs, venv = "light", size = "small", **kwargs):
    """pytest over srcs (*_test.py plus helpers and conftest.py), in the named venv."""
    pytest_test(name = name, srcs = srcs, venv = _venv(venv), size = size, import_roots = _import_roots(), **kwargs)

def py_component(
        name,
        deps = [],
        test_deps = [],
        venv = "light",
        binaries = {},
        data = [],
        test_data = [],
        test_env = {},
        test_size = "small",
        test_sizes = {},
        test_tags = [],
        testonly = False,
        visibility = []):
    """One component per BUILD file: a library, its programs, one test target per test file.

    A new file needs no change here: **/*.py is the library; **/*_test.py are the tests; *_testing.py and conftest.py
    help the tests; **/*_gpu_test.py are tests that only a GPU machine runs.

    Args:
      name: the library's name.
      deps: libraries it imports.
      test_deps: further libraries for the tests only.
      venv: the venv that its programs and tests run in.
      binaries: target name -> dotted module.
      data: files needed at run time.
      test_data: files and programs that tests need.
      test_env: environment of the tests; $(rootpath ...) of test_data is expanded.
      test_size: Bazel test size of every test file.
      test_sizes: test file -> another size.
      test_tags: tags of every test.
      testonly: whether only tests may depend on the library.
      visibility: who may depend on the library, tests/ beside them; by default everybody on a library of libs/, and on
        a service's folder that service alone. Its sources are public, for the checks of tests/static.
    """
    tests = native.glob(["**/*_test.py"], exclude = ["**/*_gpu_test.py"], allow_empty = True)
    gpu_tests = native.glob(["**/*_gpu_test.py"], allow_empty = True)
    helpers = native.glob(["**/*_testing.py", "**/conftest.py"], allow_empty = True)
    srcs = native.glob(["**/*.py"], exclude = tests + gpu_tests + helpers, allow_empty = True)
    py_library(
        name = name,
        srcs = srcs,
        data = data,
        testonly = testonly,
        visibility = (visibility or _visibility()) + ["//tests:__subpackages__"],
        deps = deps,
    )
    native.filegroup(
        name = "sources",
        srcs = srcs + tests + gpu_tests + helpers,
        visibility = ["//visibility:public"],
    )
    for binary, module in binaries.items():
        py_binary(
            name = binary,
            module = module,
            venv = venv,
            visibility = ["//visibility:public"],
            deps = [":" + name],
        )
    for test in tests + gpu_tests:
        gpu = test in gpu_tests
        py_pytest_test(
            name = test[:-len(".py")],
            srcs = [test] + helpers,
            data = test_data,
            env = test_env,
            venv = venv,
            size = "large" if gpu else test_sizes.get(test, test_size),
            tags = test_tags + (["exclusive", "gpu", "manual", "no-sandbox"] if gpu else []),
            deps = [":" + name] + test_deps,
        )

def tool_test(name, command, venv = "tools", **kwargs):
    """A checker as a test: <program of the venv> <args> <srcs>, in the runfiles root."""
    venv_tool_test(name = name, command = command, venv = _venv(venv), **kwargs)

def mypy_test(name, srcs, deps, venv, **kwargs):
    """mypy --strict over srcs, seeing deps and the packages of the venv they run in."""
    venv_tool_test(
        name = name,
        srcs = srcs,
        command = [
            "python",
            "-m mypy --config-file bazel/mypy.ini",
            "--cache-dir \"$TEST_TMPDIR/mypy\"",
            "--python-executable \"$(dirname \"$(readlink -f \"$R/%TARGET_VENV%\")\")/venv/bin/python\"",
        ],
        data = ["//bazel:mypy.ini"],
        env = {"MYPYPATH": "$PYTHONPATH"},
        target_venv = _venv(venv),
        venv = _venv("tools"),
        deps = deps,
        **kwargs
    )
