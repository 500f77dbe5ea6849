import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from penstock.access import EVERYTHING, Login
from penstock.bus import BusRefused, BusTimeout, EmbeddedServer, User, connect

PARENT = """
import asyncio, sys
from pathlib import Path
from penstock.bus import EmbeddedServer
async def main():
    async with EmbeddedServer(Path(sys.argv[1]), Path(sys.argv[1]) / "log") as server:
        sys.stdout.write(f"{server.process.pid}\\n"); sys.stdout.flush()
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_it_starts_again_on_the_same_port_and_store(server: EmbeddedServer) -> None:
    before = server.url
    await server.kill()
    await server.start()
    assert server.url == before


async def test_it_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    server = int(await asyncio.wait_for(parent.stdout.readline(), 20))
    handle = os.pidfd_open(server)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(handle, ended.set)
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    await asyncio.wait_for(ended.wait(), 5)
    asyncio.get_running_loop().remove_reader(handle)
    os.close(handle)


@pytest.mark.parametrize("name", ["dé ñ 日本 space", 'a "quoted" back\\slash', "# { $x }"])
async def test_its_store_may_lie_below_any_name(tmp_path: Path, name: str) -> None:
    async with (
        EmbeddedServer(tmp_path / name / "s", tmp_path / "log") as server,
        connect(server.url, name="t") as bus,
    ):
        assert bus.connected
    assert (tmp_path / name / "s").is_dir()


async def test_a_taken_port_is_a_clear_error(server: EmbeddedServer, tmp_path: Path) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    second = EmbeddedServer(tmp_path / "second", tmp_path / "second.log", port=port)
    with pytest.raises(RuntimeError, match="address already in use"):
        await second.start()


async def test_a_wrong_password_is_refused_and_no_server_times_out(tmp_path: Path) -> None:
    user = User(Login("a", "secret"), EVERYTHING)
    async with EmbeddedServer(tmp_path / "s", tmp_path / "log", users={"a": user}) as server:
        async with connect(server.url, name="right", login=user.login) as bus:
            assert bus.connected
        for wrong in (Login("a", "guess"), Login("b", "secret"), Login(None, "secret"), Login()):
            with pytest.raises((BusRefused, BusTimeout)):
                async with connect(server.url, name="wrong", login=wrong, within=0.5):
                    pass
    with pytest.raises((BusRefused, BusTimeout)):
        async with connect(server.url, name="nobody", within=0.5):
            pass
