"""Nothing that came from outside is read as code: no pickle, no unsafe YAML, no eval, in any file of the tree.

Weights are safetensors, checkpoints are read with `weights_only`, messages are protobuf or JSON. What is allowed
all the same is listed with its reason, and what is not found any more must leave the list.
"""

import ast
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path.cwd()
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader", "_Loader"}
# torch.distributed's collectives of objects unpickle what comes from a socket.
COLLECTIVES = {
    "all_gather_object",
    "gather_object",
    "broadcast_object_list",
    "scatter_object_list",
    "send_object_list",
    "recv_object_list",
}

ALLOWED = {
    "services/learner/interface/telling_test.py imports pickle": "it makes what must be refused",
    "services/learner/testing/forked_ranks.py calls torch.load without weights_only=True": "a test's own ranks",
}


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression; empty for another one."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    """A keyword's literal value; None where it is absent or computed."""
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def unsafe_call(call: ast.Call) -> str:
    """What a call reads as code; empty for nothing."""
    name = dotted(call.func)
    last = name.rpartition(".")[2]
    if name in BUILTINS:
        return f"calls {name}"
    if last in COLLECTIVES:
        return f"calls {last}"
    if name == "torch.load" and keyword(call, "weights_only") is not True:
        return "calls torch.load without weights_only=True"
    if name.startswith("yaml.") and last in ("unsafe_load", "full_load", "unsafe_load_all", "full_load_all"):
        return f"calls {name}"
    loaders = {dotted(each).rpartition(".")[2] for each in [*call.args[1:], *(k.value for k in call.keywords)]}
    if name in ("yaml.load", "yaml.load_all") and not loaders & SAFE_LOADERS:
        return f"calls {name} without a SafeLoader"
    for argument in ("allow_pickle", "trust_remote_code"):
        if keyword(call, argument) is True:
            return f"calls {name or last} with {argument}=True"
    return ""


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Everything in a file that reads something as code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"imports {a.name}" for a in node.names if a.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield f"imports {node.module}"
        elif isinstance(node, ast.Call) and (found := unsafe_call(node)):
            yield found
        elif isinstance(node, ast.Call) and dotted(node.func) in ("functools.partial", "partial") and node.args:
            inner = ast.Call(func=node.args[0], args=node.args[1:], keywords=node.keywords)
            if found := unsafe_call(inner):
                yield found


def test_nothing_from_outside_is_read_as_code() -> None:
    paths = [p for p in sorted(ROOT.rglob("*.py")) if not {".git", ".bazel", "runs"} & set(p.relative_to(ROOT).parts)]
    assert len(paths) > 300, "the tree is not here: this test would prove nothing"
    found = {f"{p.relative_to(ROOT).as_posix()} {what}" for p in paths for what in unsafe(ast.parse(p.read_text()))}
    assert found - set(ALLOWED) == set()
    assert set(ALLOWED) - found == set(), "allowed, and not there any more"


def test_every_way_of_reading_code_is_found() -> None:
    lines = (
        "import pickle",
        "from joblib import load",
        "import marshal",
        "eval(text)",
        "exec(compile(text, 'x', 'exec'))",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=asked)",
        "functools.partial(torch.load, mmap=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "dist.all_gather_object(found, value)",
    )
    assert [line for line in lines if not list(unsafe(ast.parse(line)))] == []
    fine = (
        "torch.load(path, weights_only=True)",
        "yaml.load(text, yaml.SafeLoader)",
        "yaml.safe_load(text)",
        "model.eval()",
        "re.compile(text)",
        "np.load(path)",
        "from_pretrained(path, trust_remote_code=False)",
    )
    assert [line for line in fine if list(unsafe(ast.parse(line)))] == []
