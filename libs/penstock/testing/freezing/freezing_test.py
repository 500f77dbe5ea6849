"""A process that was stopped does nothing more, in none of its threads."""

import os
import signal
import subprocess
import sys

from penstock.testing.freezing import freeze

COUNTS = """
import os, threading
def count():
    while True:
        os.write(1, b".")
for _ in range(3):
    threading.Thread(target=count).start()
"""


def test_none_of_its_threads_goes_on() -> None:
    process = subprocess.Popen([sys.executable, "-c", COUNTS], stdout=subprocess.PIPE)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    try:
        for _ in range(20):
            while not process.stdout.read(1):
                os.sched_yield()
            freeze(process.pid)
            while process.stdout.read(1 << 20):
                pass
            assert not process.stdout.read(1)
            os.kill(process.pid, signal.SIGCONT)
    finally:
        process.kill()
        process.wait()
