"""write-a-reward.md as its reader does it: the wheel installed, the file saved, the commands pasted into a shell."""

import os
import pathlib
import re
import shutil
import subprocess

from penstock.bus.embedded import free_ports
from penstock.testing.clean_environment import CleanEnvironment

PAGE = pathlib.Path(__file__).parent / "write-a-reward.md"


def section(page: str, title: str) -> str:
    """The text below a heading of the page."""
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_page_works_word_for_word_in_a_clean_environment(tmp_path: pathlib.Path) -> None:
    """But for the port, which may be taken where the test runs."""
    environment = CleanEnvironment(tmp_path / "venv", [pathlib.Path(os.environ["PENSTOCK_SDK_WHEEL"])])
    page = PAGE.read_text().replace("7000", str(free_ports(1)[0]))
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "brevity.py").write_text(code)
    commands = "\n".join(re.findall(r"^    (.*)$", section(page, "Try it"), re.M))
    assert "penstock-conformance" in commands
    bash = shutil.which("bash")
    assert bash is not None
    script = f"trap 'kill %1; wait %1' EXIT\nset -e\n{commands}\n"
    done = subprocess.run(
        [bash, "-c", script], cwd=tmp_path, env=environment.variables, text=True, capture_output=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "passed"
