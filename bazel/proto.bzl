"""py_grpc_library: message, stub and typing modules from .proto files, made with grpcio-tools at build time; and proto_folder:
the same files as other languages' tools read them, without Bazel."""

load("//bazel:py.bzl", "PySourcesInfo")

ProtoFilesInfo = provider(
    doc = "Proto files for importers.",
    fields = {"protos": "depset of File"},
)

_SUFFIXES = ["_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi"]

def _py_grpc_library_impl(ctx):
    root = ctx.label.package  # the BUILD file sits at the import root: //proto
    protos = depset(ctx.files.srcs, transitive = [d[ProtoFilesInfo].protos for d in ctx.attr.deps])
    outs = []
    for src in ctx.files.srcs:
        stem = src.short_path[len(root) + 1:-len(".proto")]
        outs += [ctx.actions.declare_file(stem + suffix) for suffix in _SUFFIXES]
    image = ctx.actions.declare_file(ctx.label.name + ".binpb")
    out_root = image.dirname
    args = ctx.actions.args()
    args.add("--proto_path=" + root)
    for flag in ["python_out=", "pyi_out=", "grpc_python_out=", "mypy_grpc_out=quiet:"]:
        args.add("--" + flag + out_root)
    args.add("--descriptor_set_out=" + image.path)
    args.add_all(["--include_imports", "--include_source_info"])
    args.add_all(ctx.files.srcs)
    if ctx.attr.generate_validate:
        # Its .proto is inside the tool (see protoc.py); our messages import its Python module.
        args.add("buf/validate/validate.proto")
        outs += [ctx.actions.declare_file("buf/validate/validate" + suffix) for suffix in _SUFFIXES]
    ctx.actions.run(
        executable = ctx.executable._protoc,
        arguments = [args],
        inputs = protos,
        outputs = outs + [image],
        mnemonic = "PyGrpc",
        progress_message = "Generating Python gRPC stubs for %s" % ctx.label,
    )
    runfiles = ctx.runfiles(files = outs)
    for dep in ctx.attr.deps:
        runfiles = runfiles.merge(dep[DefaultInfo].default_runfiles)
    return [
        DefaultInfo(files = depset(outs), runfiles = runfiles),
        OutputGroupInfo(image = depset([image])),
        ProtoFilesInfo(protos = protos),
        PySourcesInfo(
            sources = depset(outs, transitive = [d[PySourcesInfo].sources for d in ctx.attr.deps]),
            imports = depset(
                [ctx.workspace_name + "/" + root],
                transitive = [d[PySourcesInfo].imports for d in ctx.attr.deps],
            ),
        ),
    ]

py_grpc_library = rule(
    implementation = _py_grpc_library_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".proto"], mandatory = True),
        "deps": attr.label_list(providers = [ProtoFilesInfo, PySourcesInfo]),
        "generate_validate": attr.bool(doc = "also generate buf.validate's Python module"),
        "_protoc": attr.label(default = "//bazel:protoc", executable = True, cfg = "exec"),
    },
)

def _pair(file):
    return "%s=%s" % (file.path, file.short_path)

def _proto_folder_impl(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    protos = depset(transitive = [d[ProtoFilesInfo].protos for d in ctx.attr.deps])
    args = ctx.actions.args()
    args.add("--root", ctx.label.package)
    args.add("--out", out.path)
    args.add_all(protos, map_each = _pair)
    ctx.actions.run(
        executable = ctx.executable._builder,
        arguments = [args],
        inputs = protos,
        outputs = [out],
        mnemonic = "ProtoFolder",
        progress_message = "Laying out the contracts in %s" % ctx.label,
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles(files = [out]))]

proto_folder = rule(
    doc = "A folder of .proto files and of all that they import, an import root for protoc, buf and proto-loader.",
    implementation = _proto_folder_impl,
    attrs = {
        "deps": attr.label_list(providers = [ProtoFilesInfo], mandatory = True),
        "_builder": attr.label(default = "//bazel/proto_folder:build", executable = True, cfg = "exec"),
    },
)
