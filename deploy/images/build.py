"""Builds the images of Penstock's services and says how large they are.

    python3 deploy/images/build.py                                  # for CPUs, with podman or docker
    python3 deploy/images/build.py --accelerator cuda --name registry.example/penstock --tag v1

What follows `--` goes to the builder as it is, such as `--build-arg BASE=...` or `--volume` for a mirror's settings.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
VENVS = ("light", "adapters", "generation", "learner")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--name", default="localhost/penstock", help="what the images' names begin with")
    parser.add_argument("--tag", default="latest")
    parser.add_argument("--venv", action="append", choices=VENVS, help="this one alone; repeat for more")
    parser.add_argument(
        "--builder", choices=["podman", "docker"], help="podman where it is there; they share no images"
    )
    parser.add_argument("further", nargs="*", help="words for the builder, behind --")
    args = parser.parse_args()
    builders = [args.builder] if args.builder else ["podman", "docker"]
    builder = next((found for each in builders if (found := shutil.which(each))), None)
    if builder is None:
        parser.error(f"{' and '.join(builders)}: not on PATH")
    for venv in args.venv or VENVS:
        name, began = f"{args.name}-{venv}-{args.accelerator}:{args.tag}", time.monotonic()
        command = [builder, "build", "-f", "deploy/images/Containerfile", "-t", name]
        command += ["--build-arg", f"VENV={venv}", "--build-arg", f"ACCELERATOR={args.accelerator}", *args.further, "."]
        if code := subprocess.run(command, cwd=ROOT).returncode:
            return code
        size = subprocess.run(
            [builder, "image", "inspect", "--format", "{{.Size}}", name], check=True, capture_output=True, text=True
        )
        print(f"{name}: {int(size.stdout) / 2**20:.0f} MiB in {time.monotonic() - began:.0f} s")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
