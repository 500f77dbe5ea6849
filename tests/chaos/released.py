"""A service that says it is of another release: `python -m tests.chaos.released SERVICE RELEASES FLAGS…`.

RELEASES is a folder: its file SERVICE names the release of whatever is started from then on; where there is none it is
ours. The code is this tree's, and the engine of generation is the fake.
"""

import pathlib
import runpy
import sys

from penstock.system import version


def main(service: str, releases: pathlib.Path, flags: list[str]) -> int:
    said = releases / service
    if said.exists():
        version.VERSION = said.read_text()  # before anything that announces it is imported
    module = "tests.chaos.fake_engine" if service == "generation" else f"services.{service}"
    sys.argv = [module, *flags]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]))
