"""Who may import what: the boundaries that let every part be deployed, replaced and tested on its own.

The rules are those of the architecture's section "Boundaries that tests enforce"; each forbidden import is reported
with its file and line.
"""

import ast
import pathlib
import sys
from collections.abc import Callable, Iterator

import pytest

ROOT = pathlib.Path.cwd()
HEAVY = ("torch", "vllm", "megatron")


def imports(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import in a file, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_test(path: pathlib.Path) -> bool:
    kit = "testing" in path.relative_to(ROOT).parts
    return kit or path.name.endswith(("_test.py", "_testing.py")) or path.name == "conftest.py"


def files(folder: str, *, tests: bool = False) -> list[pathlib.Path]:
    found = [p for p in sorted((ROOT / folder).rglob("*.py")) if tests or not is_test(p)]
    assert found, f"no sources below {folder}: the test would prove nothing"
    return found


def starts(module: str, *roots: str) -> bool:
    return any(module == root or module.startswith(root + ".") for root in roots)


def violations(paths: list[pathlib.Path], forbidden: Callable[[pathlib.Path, str], bool]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in paths
        for line, module in imports(path)
        if forbidden(path, module)
    ]


def test_the_sdk_needs_neither_torch_nor_vllm_nor_megatron() -> None:
    paths = files("libs/penstock/sdk") + files("libs/penstock/rpc") + files("libs/penstock/telemetry")
    assert not violations(paths, lambda _, module: starts(module, *HEAVY))


def test_objectives_import_torch_and_nothing_else_of_ours() -> None:
    def forbidden(_: pathlib.Path, module: str) -> bool:
        ours = starts(module, "penstock", "services") and not starts(module, "penstock.objectives")
        return ours or starts(module, "vllm", "megatron", "grpc", "nats")

    assert not violations(files("libs/penstock/objectives"), forbidden)


def test_a_recipe_is_read_without_torch_and_memory_is_planned_without_a_recipe() -> None:
    light = files("libs/penstock/recipes") + files("libs/penstock/memory_plan")
    assert not violations(light, lambda _, module: starts(module, *HEAVY, "penstock.objectives"))
    assert not violations(files("libs/penstock/memory_plan"), lambda _, module: starts(module, "penstock.recipes"))


def test_a_service_never_imports_another_service() -> None:
    def forbidden(path: pathlib.Path, module: str) -> bool:
        own = path.relative_to(ROOT).parts[1]
        return starts(module, "services") and not starts(module, f"services.{own}")

    assert not violations(files("services"), forbidden)
    assert not violations(files("libs"), lambda _, module: starts(module, "services"))


def test_megatron_is_imported_by_its_backend_alone_and_vllm_by_generation_alone() -> None:
    def forbidden(path: pathlib.Path, module: str) -> bool:
        where = path.relative_to(ROOT).as_posix()
        megatron = starts(module, "megatron") and not where.startswith("services/learner/backends/megatron_core/")
        return megatron or (starts(module, "vllm") and not where.startswith("services/generation/"))

    assert not violations(files("libs") + files("services"), forbidden)


def test_only_tests_import_test_kits() -> None:
    def forbidden(_: pathlib.Path, module: str) -> bool:
        return starts(module, "penstock", "services") and "testing" in module.split(".")

    assert not violations(files("libs") + files("services"), forbidden)


@pytest.mark.parametrize(
    ("folder", "above"),
    [
        ("recipes/sections", ("recipe", "methods", "loading", "checks", "needs")),
        ("recipes/checks", ("loading",)),
        ("sdk/conformance", ("hosting", "serving")),
        ("sdk/hosting", ("conformance", "serving")),
        ("cli/commands", ("main",)),
    ],
)
def test_a_room_of_a_library_knows_nothing_of_what_stands_above_it(folder: str, above: tuple[str, ...]) -> None:
    library = folder.partition("/")[0]
    forbidden = [f"penstock.{library}.{module}" for module in above]
    assert not violations(files(f"libs/penstock/{folder}"), lambda _, module: starts(module, *forbidden))


def test_what_an_author_imports_of_the_sdk_hosts_nothing() -> None:
    """serving.py alone brings the two together."""
    face = [p for p in files("libs/penstock/sdk") if p.parent.name == "sdk" and p.name != "serving.py"]
    assert face and not violations(face, lambda _, module: starts(module, "penstock.sdk.hosting"))


def test_system_needs_nothing_but_the_standard_library() -> None:
    """Checkpoints write through it and a sandbox's host is started with it: neither wants a server's libraries."""

    def forbidden(_: pathlib.Path, module: str) -> bool:
        return module.partition(".")[0] not in sys.stdlib_module_names and not starts(module, "penstock.system")

    assert not violations(files("libs/penstock/system"), forbidden)


@pytest.mark.parametrize(("library", "owner"), [("nats", "libs/penstock/bus/"), ("grpc_health", "libs/penstock/rpc/")])
def test_one_library_speaks_each_protocol(library: str, owner: str) -> None:
    def forbidden(path: pathlib.Path, module: str) -> bool:
        return starts(module, library) and not path.relative_to(ROOT).as_posix().startswith(owner)

    sdk = [p for p in files("libs") if "sdk/conformance" not in p.as_posix()]
    assert not violations(sdk + files("services"), forbidden)


def test_servers_and_channels_are_built_in_one_place() -> None:
    made = (
        "grpc.aio.server",
        "grpc.aio.insecure_channel",
        "grpc.aio.secure_channel",
        "grpc.server",
        "grpc.insecure_channel",
    )
    paths = [p for p in files("libs") + files("services") if "libs/penstock/rpc/" not in p.as_posix()]
    assert not [f"{p.relative_to(ROOT)} uses {name}" for p in paths for name in made if f"{name}(" in p.read_text()]


# A room may import those of the floors below it, and no other.
FLOORS = (
    ("interface",),
    ("algorithms", "checkpoints", "huggingface", "publishing", "ranks", "backends/optim", "backends/packing"),
    ("leader", "nodes", "backends/common"),
    ("backends/megatron_core", "backends/transformers_fsdp"),
    ("backends",),
    ("",),
)
# Neighbours that a floor would allow, and that must not know each other all the same.
STRANGERS = (
    ("leader", "backends"),
    ("backends", "leader"),
    ("backends", "algorithms"),
    ("backends", "ranks"),
    ("leader", "nodes"),
)


def learner_room(module: str) -> str | None:
    """The room of services.learner that a dotted name lies in; None for another's."""
    if not starts(module, "services.learner"):
        return None
    inside = "/".join(module.split(".")[2:])
    rooms = [room for floor in FLOORS for room in floor]
    return max((r for r in rooms if not r or inside == r or inside.startswith(r + "/")), key=len)


def test_no_import_of_the_learner_goes_back_up() -> None:
    floor_of = {room: i for i, floor in enumerate(FLOORS) for room in floor}

    def forbidden(path: pathlib.Path, module: str) -> bool:
        here = learner_room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        there = learner_room(module)
        if here is None or there is None or here == there:
            return False
        strangers = any(here.startswith(a) and there.startswith(b) for a, b in STRANGERS)
        return floor_of[there] >= floor_of[here] or strangers

    paths = files("services/learner")
    assert {room for p in paths if (room := learner_room(".".join(p.relative_to(ROOT).with_suffix("").parts)))} >= {
        room for floor in FLOORS for room in floor if room
    }, "a room that has no file is no room"
    assert not violations(paths, forbidden)


def test_a_relay_has_no_code_of_what_it_may_not_do() -> None:
    """Neither pushes nor decisions: it serves what it has fetched."""
    theirs = [f"services.weight_sync.{module}" for module in ("server", "pushing", "standing", "__main__")]
    assert not violations(files("services/weight_sync/relaying"), lambda _, module: starts(module, *theirs))


def test_what_is_hosted_may_use_the_sandbox_and_never_the_other_way() -> None:
    sandbox = files("services/environment/sandbox")
    assert not violations(sandbox, lambda _, module: starts(module, "services.environment.builtin"))
