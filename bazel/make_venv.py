"""Makes <repo>/venv from a lock file and writes <repo>/venv.json. Run by the py_venv repository rule.

uv does the installing (several times faster than pip, with a shared cache); it comes from its own hash-pinned lock.
What has no wheel is built by what build.lock.txt, beside that, pins.
pip's settings decide where packages come from: its find-links folders are handed on, because uv does not read them.
"""

import hashlib
import json
import os
import pathlib
import platform
import subprocess
import sys


def run(*cmd: str, env: dict[str, str] | None = None) -> str:
    """Runs a command; its output is the error text if it fails."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    proc = subprocess.run(
        cmd, env={**clean, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if proc.returncode:
        sys.exit(f"{' '.join(cmd)}\n{proc.stdout}")
    return proc.stdout


def pip_settings(python: str) -> dict[str, str]:
    """pip's effective settings by their bare names: {"index-url": ..., "find-links": ...}."""
    settings = {}
    for line in run(python, "-m", "pip", "config", "list").splitlines():
        key, _, value = line.partition("=")
        settings[key.rpartition(".")[2]] = value.strip("'\"")
    return settings


def uv_environment(settings: dict[str, str]) -> dict[str, str]:
    """The same sources for uv. Folders that do not exist are left out: uv refuses them, pip ignores them."""
    env = {}
    if "index-url" in settings:
        env["UV_DEFAULT_INDEX"] = settings["index-url"]
    extra = [u for u in settings.get("extra-index-url", "").replace("\\n", " ").split() if not u.startswith("file:")]
    if extra:
        env["UV_INDEX"] = " ".join(extra)
        env["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # every artefact is pinned by hash
    links = settings.get("find-links", "").replace("\\n", " ").split()
    if links:
        env["UV_FIND_LINKS"] = ",".join(links)
    if "cert" in settings:
        env["SSL_CERT_FILE"] = settings["cert"]
    return env


def main(lock: str, repo: str, installer_lock: str, prebuilt: str) -> None:
    venv = pathlib.Path(repo, "venv")
    python = venv / "bin" / "python"
    info = {
        "lock_sha256": hashlib.sha256(pathlib.Path(lock).read_bytes()).hexdigest(),
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
    }
    if prebuilt:
        # An image already has the stack: a shim, not a symlink, so that its own prefix is found.
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{prebuilt}" "$@"\n')
        python.chmod(0o755)
        freeze = subprocess.run([prebuilt, "-m", "pip", "freeze"], stdout=subprocess.PIPE, check=True).stdout
        info = {"prebuilt_sha256": hashlib.sha256(freeze).hexdigest(), "platform": info["platform"]}
    else:
        tool = pathlib.Path(repo, "installer")
        run(sys.executable, "-m", "venv", str(tool))
        pip = (str(tool / "bin" / "python"), "-m", "pip")
        run(*pip, "install", "-q", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", installer_lock)
        uv = str(tool / "bin" / "uv")
        run(sys.executable, "-m", "venv", "--without-pip", str(venv))
        run(
            uv, "pip", "sync", "-q", "--require-hashes", "--only-binary", ":all:", "--compile-bytecode",
            "--build-constraints", str(pathlib.Path(installer_lock).with_name("build.lock.txt")),
            "--python", str(python), lock,
            env=uv_environment(pip_settings(sys.executable)),
        )  # fmt: skip
    # No absolute path and no time in here: this file is an input of every action that uses the venv.
    pathlib.Path(repo, "venv.json").write_text(json.dumps(info, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
