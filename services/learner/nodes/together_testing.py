"""A node of real ranks, to be killed by tests.

python -m services.learner.nodes.together_testing NATS NAME FOLDER HUNG_SECONDS BEHAVIOUR
"""

import pathlib
import sys

from penstock.process import Process, flags, run
from services.learner.nodes.node import KIND, NodeLife


def main(nats: str, name: str, folder: str, hung: str, behaviour: str) -> int:
    args = flags("learner", "tests").parse_args(["--nats", nats, "--run", "r1", "--name", name])
    args.part = KIND
    command = [sys.executable, "-m", "services.learner.testing.group", "launch", hung, "60", behaviour]

    async def serve(process: Process, _: object) -> None:
        life = NodeLife(process, command, 2, pathlib.Path(folder) / "checkpoints", 60.0, "127.0.0.1")
        await process.serving(life.run(), ready=life.ready, gives_back=True)

    return run(args, serve, "r1")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
