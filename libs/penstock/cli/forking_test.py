"""A fork beside gRPC's calls."""

import subprocess
import sys

SCRIPT = """
import asyncio, os
import penstock.cli
import grpc

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await asyncio.wait_for(channel.channel_ready(), 60)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    await server.stop(None)

asyncio.run(main())
"""


def test_a_fork_is_no_business_of_grpcs() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "fork" not in done.stderr, done.stderr
