"""A secret is made once, and nobody else on the machine can read it."""

import os
import pathlib
import stat
import subprocess
import sys

import pytest

from penstock.system.secret_files import made_secret

NOT_ALLOWED, REFUSED = 70, 71
AS_NOBODY = f"""
import os, sys
try:
    os.setgid(65534)
    os.setuid(65534)
except OSError:
    sys.exit({NOT_ALLOWED})
try:
    open(sys.argv[1])
except PermissionError:
    sys.exit({REFUSED})
"""


def test_a_secret_is_made_once_and_is_its_owners_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "secrets" / "services.token"
    (path.parent).mkdir(mode=0o777)
    first = made_secret(path)
    assert len(first) >= 43 and made_secret(path) == first != made_secret(path.with_name("nats.token"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(p.name for p in path.parent.iterdir()) == ["nats.token", "services.token"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_cannot_read_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "secrets" / "services.token"
    made_secret(path)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(path)], check=False)
    if done.returncode == NOT_ALLOWED:
        pytest.skip("this sandbox has no other user")
    assert done.returncode == REFUSED
