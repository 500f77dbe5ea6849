"""The first example of write-a-reward.md, as it stands on the page, keeps the contract."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from penstock.sdk import check_reward

PAGE = pathlib.Path(__file__).parent / "write-a-reward.md"


async def test_the_example_on_the_page_passes_the_contract_test_kit(tmp_path: pathlib.Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    announced = tmp_path / "address"
    changed = code.replace('listen="127.0.0.1:7000"', f'listen="127.0.0.1:0", announce=pathlib.Path("{announced}")')
    (tmp_path / "brevity.py").write_text("import pathlib\n" + changed)
    process = subprocess.Popen([sys.executable, str(tmp_path / "brevity.py")], env=dict(os.environ))
    try:
        report = await check_reward(_address(announced, process), reward="brevity")
        assert report.passed, [check for check in report.checks if not check.passed]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def _address(path: pathlib.Path, process: "subprocess.Popen[bytes]") -> str:
    """The announced address; the file is all there is to wait for."""
    end = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    return path.read_text().strip()
