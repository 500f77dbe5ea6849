"""What a service calls it may call: every call of a method in its sources has a row that names its kind.

A row that is missing is seen only where the call is made, and there it may be taken for a peer that is away.
"""

import ast
import pathlib
from collections import defaultdict
from collections.abc import Iterator

from penstock.access.methods import METHODS

ROOT = pathlib.Path.cwd()
KINDS = (
    "coordinator",
    "rollout",
    "gateway",
    "generation",
    "environment",
    "reward_model",
    "learner",
    "weight_sync",
    "dashboard",
)
# Whose calls are in a room of another's folder.
ROOMS = {"weight_sync/relaying": "relay"}
# Which services have a method of this name: `Drain` is one of the engine's and of the learner's.
CALLERS: dict[str, set[str]] = defaultdict(set)
for method, rule in METHODS.items():
    CALLERS[method.rpartition("/")[2]] |= set(rule.callers)


def calls(path: pathlib.Path) -> Iterator[str]:
    """Methods that a file calls on a stub: `stub.Score(...)`, not `servicer.Score` of a class of its own."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLERS:
            on = node.func.value
            name = on.attr if isinstance(on, ast.Attribute) else on.id if isinstance(on, ast.Name) else ""
            if name in ("s", "stub", "_stub"):
                yield node.func.attr


def product(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    for path in sorted(folder.rglob("*.py")):
        if not path.name.endswith(("_test.py", "_testing.py", "conftest.py")) and "testing" not in path.parts:
            yield path


def kind_of(path: pathlib.Path) -> str:
    """As whom a file of a service calls."""
    folder = path.relative_to(ROOT / "services").parent.as_posix()
    return ROOMS.get(folder, folder.partition("/")[0])


def test_every_call_of_a_service_is_one_that_its_kind_may_make() -> None:
    found = {
        (kind_of(path), name) for kind in KINDS for path in product(ROOT / "services" / kind) for name in calls(path)
    }
    assert len(found) > 15 and ("relay", "ListVersions") in found, "the calls of the services were not found"
    assert not {(kind, name) for kind, name in found if kind not in CALLERS[name]}
