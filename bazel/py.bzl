"""Python rules in plain Starlark: the same code runs on Bazel 4.2.3 and 7.7.1 and needs no rules_python.

Every executable names the venv it runs in; libraries do not, so one library can serve services whose
third-party dependencies conflict.
"""

PySourcesInfo = provider(
    doc = "Python sources and the runfiles directories to import them from.",
    fields = {
        "sources": "depset of File: this target's and its dependencies' sources",
        "imports": "depset of string: runfiles-relative directories for PYTHONPATH",
    },
)

_LIBRARY_ATTRS = {
    "srcs": attr.label_list(allow_files = [".py", ".pyi"]),
    "deps": attr.label_list(providers = [PySourcesInfo]),
    "data": attr.label_list(allow_files = True),
    "import_roots": attr.string_list(default = [""], doc = "folders of the workspace to import srcs from"),
}

_EXECUTABLE_ATTRS = dict(
    _LIBRARY_ATTRS,
    venv = attr.label(mandatory = True, allow_single_file = ["venv.json"]),
    env = attr.string_dict(),
    _launcher = attr.label(default = "//bazel:launcher.sh", allow_single_file = True),
)

def _runfiles_path(ctx, file):
    """The path of a file below the runfiles root."""
    if file.short_path.startswith("../"):
        return file.short_path[3:]
    return ctx.workspace_name + "/" + file.short_path

def _collect(ctx, extra_files = []):
    sources = depset(ctx.files.srcs, transitive = [d[PySourcesInfo].sources for d in ctx.attr.deps])
    roots = [ctx.workspace_name + ("/" + root if root else "") for root in ctx.attr.import_roots]
    imports = depset(roots, transitive = [d[PySourcesInfo].imports for d in ctx.attr.deps])
    runfiles = ctx.runfiles(files = ctx.files.srcs + ctx.files.data + extra_files)
    for dep in ctx.attr.deps + ctx.attr.data:
        runfiles = runfiles.merge(dep[DefaultInfo].default_runfiles)
    return PySourcesInfo(sources = sources, imports = imports), runfiles

def _py_library_impl(ctx):
    info, runfiles = _collect(ctx)
    return [DefaultInfo(files = depset(ctx.files.srcs), runfiles = runfiles), info]

py_library = rule(implementation = _py_library_impl, attrs = _LIBRARY_ATTRS)

def _launch(ctx, command, extra_files = []):
    """Declares the launcher script; command is shell words: a program of the venv, then arguments ($R: runfiles)."""
    info, runfiles = _collect(ctx, [ctx.file.venv] + extra_files)
    env = ["export %s=\"%s\"" % (k, ctx.expand_location(v, ctx.attr.data)) for k, v in ctx.attr.env.items()]
    exe = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.expand_template(
        template = ctx.file._launcher,
        output = exe,
        is_executable = True,
        substitutions = {
            "%VENV%": _runfiles_path(ctx, ctx.file.venv),
            "%IMPORTS%": ":".join(["$R/" + i for i in info.imports.to_list()]),
            "%WORKSPACE%": ctx.workspace_name,
            "%ENV%": "\n".join(env),
            "%COMMAND%": " ".join(["\"$VENV/bin/%s\"" % command[0]] + command[1:]),
        },
    )
    return [DefaultInfo(executable = exe, files = depset([exe]), runfiles = runfiles), info]

def _py_binary_impl(ctx):
    return _launch(ctx, ["python", "-m", ctx.attr.module])

py_binary = rule(
    implementation = _py_binary_impl,
    attrs = dict(_EXECUTABLE_ATTRS, module = attr.string(mandatory = True, doc = "dotted module, run with -m")),
    executable = True,
)

def _pytest_test_impl(ctx):
    tests = [f for f in ctx.files.srcs if f.basename.endswith("_test.py")]
    if not tests:
        fail("%s: no *_test.py among srcs" % ctx.label)
    runner, config = ctx.file._runner, ctx.file._config
    args = ["\"$R/%s\"" % _runfiles_path(ctx, f) for f in [runner, config] + tests]
    return _launch(ctx, ["python"] + args, [runner, config])

pytest_test = rule(
    implementation = _pytest_test_impl,
    attrs = dict(
        _EXECUTABLE_ATTRS,
        _runner = attr.label(default = "//bazel:pytest_main.py", allow_single_file = True),
        _config = attr.label(default = "//bazel:pytest.ini", allow_single_file = True),
    ),
    test = True,
)

def _venv_tool_test_impl(ctx):
    """<program of the venv> <args> <srcs>, in the runfiles root; deps are there to be imported by srcs."""
    other = ctx.file.target_venv
    command = [c.replace("%TARGET_VENV%", _runfiles_path(ctx, other) if other else "") for c in ctx.attr.command]
    command = [ctx.expand_location(c, ctx.attr.data) for c in command]
    command += ["\"%s\"" % f.short_path for f in ctx.files.srcs]
    return _launch(ctx, command, [other] if other else [])

venv_tool_test = rule(
    implementation = _venv_tool_test_impl,
    attrs = dict(
        _EXECUTABLE_ATTRS,
        srcs = attr.label_list(allow_files = True),
        command = attr.string_list(mandatory = True),
        target_venv = attr.label(allow_single_file = ["venv.json"], doc = "venv whose packages the checker should see"),
    ),
    test = True,
)
