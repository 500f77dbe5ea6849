"""Stands in for a node's launcher: it runs no ranks, and ends as a file tells it.

python -m services.learner.nodes.ranks_testing FOLDER

FOLDER/began      a line for each life: its node, its process, where its ranks would meet
FOLDER/end-RANK   how the launcher of that node is to end: {"code": ..., "text": ..., "weight": ...}
"""

import json
import os
import pathlib
import signal
import sys
import time

from services.learner.ranks.meeting import Meeting


def main(folder: pathlib.Path) -> int:
    place = Meeting.here()
    assert place is not None

    def asked(*_: object) -> None:
        time.sleep(1.0)  # a checkpoint takes its time
        with (folder / "began").open("a") as began:
            began.write(f"# {place.rank} was asked to end\n")
        sys.exit(143)

    signal.signal(signal.SIGTERM, asked)
    with (folder / "began").open("a") as began:
        began.write(f"{place.rank} {os.getpid()} {place.address}\n")
    end = folder / f"end-{place.rank}"
    while True:
        if end.is_file():
            told = json.loads(end.read_text())
            end.unlink()
            if told["text"]:
                pathlib.Path(place.said).write_text(json.dumps({"text": told["text"], "weight": told["weight"]}))
            return int(told["code"])
        time.sleep(0.02)  # a file announces nothing


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
