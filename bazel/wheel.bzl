"""py_wheel: libraries and all that they import, as a wheel that pip installs without Bazel."""

load("//bazel:py.bzl", "PySourcesInfo")

def _pair(file):
    return "%s=%s" % (file.path, file.short_path)

def _py_wheel_impl(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    files = depset(transitive = [d[DefaultInfo].default_runfiles.files for d in ctx.attr.deps])
    roots = depset(transitive = [d[PySourcesInfo].imports for d in ctx.attr.deps]).to_list()
    about = [ctx.file.project, ctx.file.readme, ctx.file._licence]
    args = ctx.actions.args()
    args.use_param_file("@%s", use_always = True)
    args.set_param_file_format("multiline")
    for flag, file in zip(["--project", "--readme", "--licence"], about):
        args.add(flag, file)
    for root in roots:
        if "/" in root:
            args.add("--root", root.partition("/")[2])
    if ctx.attr.on:
        args.add("--on", ctx.file.on.path)
        about.append(ctx.file.on)
    args.add("--out", out.path)
    args.add_all(files, map_each = _pair)
    ctx.actions.run(
        executable = ctx.executable._builder,
        arguments = [args],
        inputs = depset(about, transitive = [files]),
        outputs = [out],
        mnemonic = "PyWheel",
        progress_message = "Building the wheel %s" % ctx.label,
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles(files = [out]))]

py_wheel = rule(
    doc = "A folder with one wheel: deps, what they import and the data that they need. Requirements follow from imports.",
    implementation = _py_wheel_impl,
    attrs = {
        "deps": attr.label_list(providers = [PySourcesInfo], mandatory = True),
        "project": attr.label(mandatory = True, allow_single_file = ["pyproject.toml"]),
        "readme": attr.label(mandatory = True, allow_single_file = [".md"]),
        "on": attr.label(allow_single_file = True, doc = "another wheel, whose files are left out here and which is required"),
        "_licence": attr.label(default = "//:LICENSE", allow_single_file = True),
        "_builder": attr.label(default = "//bazel/wheels:build", executable = True, cfg = "exec"),
    },
)
