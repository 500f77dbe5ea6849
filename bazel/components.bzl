"""What the tree is made of: every folder with Python in it, and the environment that its types are checked in.

Programs, checks and benchmarks read their lists here and nowhere else; `//tests/static:components_test` fails where a
file of the tree is in none of them.
"""

# libs/penstock/<name>
LIBRARIES = {
    "access": "light",
    "audit": "light",
    "bus": "light",
    "chat": "light",
    "cli": "light",
    "datasets": "light",
    "differences": "light",
    "fetching": "light",
    "histories": "light",
    "kube": "light",
    "ledger": "light",
    "membership": "light",
    "memory_plan": "light",
    "migrate": "light",
    "names": "light",
    "objectives": "learner",
    "packages": "light",
    "packing": "learner",
    "process": "light",
    "recipes": "light",
    "replicas": "light",
    "rpc": "light",
    "rules": "light",
    "sdk": "light",
    "showing": "light",
    "snapshots": "light",
    "supervisor": "light",
    "system": "light",
    "telemetry": "light",
    "tensors": "light",
    "terminal": "light",
    "testing/certificates": "light",
    "testing/chat_templates": "light",
    "testing/clean_environment": "light",
    "testing/fake_engine": "light",
    "testing/freezing": "light",
    "testing/hostile_messages": "light",
    "testing/nats": "light",
    "testing/small_disk": "light",
    "tiny_model": "light",
    "trajectories": "light",
}

# services/<name>: each a program, //services/<name>:server, in an environment of its own.
SERVICES = {
    "coordinator": "light",
    "dashboard": "light",
    "environment": "light",
    "environment_adapters": "adapters",
    "gateway": "light",
    "generation": "generation",
    "learner": "learner",
    "reward_model": "learner",
    "rollout": "light",
    "weight_sync": "light",
}

# services/<name>/<room>: a service that is too large for one folder; its BUILD files say who may see whom.
ROOMS = {
    "coordinator": [
        "admission",
        "evaluation",
        "reporting",
        "reporting/trackers",
        "state",
        "testing",
    ],
    "environment": [
        "answers",
        "builtin",
        "sandbox",
    ],
    "learner": [
        "algorithms",
        "backends",
        "backends/common",
        "backends/megatron_core",
        "backends/optim",
        "backends/packing",
        "backends/testing",
        "backends/transformers_fsdp",
        "checkpoints",
        "huggingface",
        "interface",
        "leader",
        "nodes",
        "publishing",
        "ranks",
        "testing",
    ],
    "weight_sync": [
        "disk",
        "standing",
    ],
}

# Folders that are no component: programs of the build, tests that cross services, pages that are generated.
OTHERS = {
    ".ci": "light",
    "bazel": "tools",
    "bazel/proto_folder": "light",
    "bazel/site": "light",
    "bazel/wheels": "light",
    "deploy/images": "light",
    "deploy/monitoring": "light",
    "docs": "learner",
    "examples/agents_of_others": "adapters",
    "examples/node_reward": "light",
    "examples/verifiers_sorting": "adapters",
    "tests/agents": "adapters",
    "tests/bench": "learner",
    "tests/chaos": "light",
    "tests/e2e": "light",
    "tests/e2e/testing": "light",
    "tests/families": "light",
    "tests/fuzz": "learner",
    "tests/manifests": "sinks",
    "tests/pods": "light",
    "tests/proofs": "light",
    "tests/real": "learner",
    "tests/sinks": "sinks",
    "tests/static": "light",
    "tests/walks": "light",
}

def _packages():
    found = {"libs/penstock/" + name: venv for name, venv in LIBRARIES.items()}
    for service, venv in SERVICES.items():
        found["services/" + service] = venv
        for room in ROOMS.get(service, []):
            found["services/%s/%s" % (service, room)] = venv
    found.update(OTHERS)
    return found

# Package -> environment, of everything.
PACKAGES = _packages()

def libraries_of(service):
    """Labels of a service's libraries, its rooms included (benchmarks use the learner's)."""
    return ["//services/" + service] + ["//services/%s/%s" % (service, room) for room in ROOMS.get(service, [])]

# The programs that `penstock train` starts, and the variables that tell it where they are.
PROGRAMS = ["//services/%s:server" % s for s in SERVICES]

LAUNCHERS = {"PENSTOCK_LAUNCH_" + s.upper(): "$(rootpath //services/%s:server)" % s for s in SERVICES}
