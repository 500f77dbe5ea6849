"""What each kind may do in a run's NATS, on a real server: its work, and nothing of another's."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest
import pytest_asyncio

from penstock.access import Login, subjects_of
from penstock.bus import (
    Bucket,
    Bus,
    BusRefused,
    BusTimeout,
    EmbeddedServer,
    Files,
    Heard,
    LoginRefused,
    RunNames,
    TaskConsumer,
    TaskKind,
    User,
    append,
    connect,
    ensure_run,
    hearing,
    last_entry,
    load_payload,
    publish_once,
    read,
    store_payload,
    stream_state,
    trim,
)
from penstock.rpc import Certificates
from penstock.testing.certificates import issue
from penstock.testing.nats.fixtures import SMALL

NAMES = RunNames("r1")
TABLE = subjects_of(NAMES)
USERS: dict[str, User] = {kind: User(Login(kind, f"secret of {kind}"), TABLE[kind]) for kind in TABLE}
SHORT = 0.7


@asynccontextmanager
async def as_kind(server: EmbeddedServer, kind: str) -> AsyncIterator[Bus]:
    login, monitor = USERS[kind].login, server.monitor_url
    async with connect(server.url, name=kind, login=login, monitor_url=monitor, attempt_seconds=0.5) as bus:
        yield bus


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A server of a run that its operator has made."""
    async with EmbeddedServer(tmp_path / "store", tmp_path / "log", users=USERS) as running:
        async with as_kind(running, "operator") as bus:
            await ensure_run(bus, NAMES, SMALL)
            for kind in get_args(TaskKind):
                await TaskConsumer(bus, NAMES, kind).ensure()
        yield running


async def denied(bus: Bus, subject: str) -> None:
    """The server takes nothing under a subject, and says so."""
    with pytest.raises(BusTimeout, match="(?i)permissions violation for publish"):
        await append(bus, subject, b"forged", expected_last_sequence=None, within=SHORT)


async def said(bus: Bus, key: str, heard: "asyncio.Queue[Heard]") -> bytes:
    """What a user says of itself, as another one hears it: again and again, as one that connects anew has missed it."""
    revision = 0
    while True:
        revision = await Bucket(bus, NAMES).renew(key, b"here", revision, ttl=15)
        with contextlib.suppress(TimeoutError):
            return (await asyncio.wait_for(heard.get(), 2)).payload


async def test_every_kind_does_its_work(server: EmbeddedServer) -> None:
    async with AsyncExitStack() as stack:
        coordinator, rollout, learner = [
            await stack.enter_async_context(as_kind(server, kind)) for kind in ("coordinator", "rollout", "learner")
        ]
        await append(coordinator, NAMES.ledger_group_subject("g1"), b"admitted", expected_last_sequence=0)
        await publish_once(coordinator, NAMES.task_subject("train", "g1"), b"task")
        async for task in TaskConsumer(rollout, NAMES, "train"):
            async with task:
                sample = await store_payload(rollout, NAMES, b"sample" * 100, limit=10)
                await publish_once(rollout, NAMES.log_subject("g1", 0), sample)
                assert await last_entry(rollout, NAMES.log, NAMES.log_subject("g1", 0)) is not None
                await task.done()
            break
        backlog = await TaskConsumer(coordinator, NAMES, "train").backlog()
        assert (backlog.pending, backlog.ack_pending) == (0, 0)
        for bus in (coordinator, learner):
            entries = [entry async for entry in read(bus, NAMES.log, live=False)]
            assert [await load_payload(bus, NAMES, e.payload) for e in entries] == [b"sample" * 100]
            assert [e.payload async for e in read(bus, NAMES.ledger, live=False)][:1] == [b"admitted"]
        await Bucket(coordinator, NAMES).put("paused", b"0")
        await Bucket(coordinator, NAMES).put(NAMES.snapshot_key, b"ledger")
        held = await Bucket(learner, NAMES).get(NAMES.snapshot_key)
        assert held is not None and held.value == b"ledger"
        await Bucket(learner, NAMES).create("learner_epoch", b"1")
        for subject in (NAMES.ledger_batch_subject(1), NAMES.ledger_step_subject(1), NAMES.ledger_eval_subject(1)):
            await append(learner, subject, b"x", expected_last_sequence=0)
        await trim(learner, NAMES.log, before=2)
        await publish_once(coordinator, NAMES.log_subject("g2", 0), b"a sample that nobody plays any more")


async def test_a_rollout_writes_samples_and_nothing_else(server: EmbeddedServer) -> None:
    async with as_kind(server, "rollout") as bus:
        for subject in (
            NAMES.ledger_batch_subject(1),
            NAMES.ledger_group_subject("g1"),
            NAMES.task_subject("train", "g1"),
            NAMES.key_subject("learner_epoch"),
            NAMES.key_subject("paused"),
            NAMES.key_subject(NAMES.snapshot_key),
            "penstock.r2.log.g1.0",
        ):
            await denied(bus, subject)
        for forbidden in (
            lambda: bus.js.add_consumer(NAMES.log, durable_name="x", deliver_subject=NAMES.ledger_batch_subject(1)),
            lambda: bus.js.delete_stream(NAMES.log),
            lambda: bus.js.purge_stream(NAMES.tasks),
            lambda: bus.js.stream_info(NAMES.ledger),
        ):
            with pytest.raises((BusTimeout, BusRefused), match="(?i)permissions violation"):
                await bus.ask("what it may not", forbidden, within=SHORT)


@pytest.mark.parametrize(
    ("kind", "subjects"),
    [
        (
            "coordinator",
            (NAMES.ledger_batch_subject(1), NAMES.ledger_step_subject(1), NAMES.key_subject("learner_epoch")),
        ),
        (
            "learner",
            (
                NAMES.task_subject("train", "g"),
                NAMES.log_subject("g", 0),
                NAMES.key_subject("paused"),
                NAMES.key_subject(NAMES.snapshot_key),
            ),
        ),
    ],
)
async def test_coordinator_and_learner_write_no_entry_of_each_other(
    server: EmbeddedServer, kind: str, subjects: tuple[str, ...]
) -> None:
    async with as_kind(server, kind) as bus:
        for subject in subjects:
            await denied(bus, subject)
    async with as_kind(server, "operator") as bus:
        assert (await stream_state(bus, NAMES.ledger)).messages == 0


async def test_each_kind_says_where_it_is_itself_and_hears_the_others(server: EmbeddedServer) -> None:
    async with as_kind(server, "environment") as bus, as_kind(server, "generation") as other:
        async with hearing(other, NAMES.member_subjects) as heard:
            own = NAMES.member_key("environment", "environment-0")
            assert await said(bus, own, heard) == b"here"
        found = [each async for each in Bucket(other, NAMES).matching(NAMES.member_subjects)]
        assert [each.key for each in found] == [own]
        await denied(bus, NAMES.key_subject(NAMES.member_key("rollout", "rollout-0")))
        await denied(bus, NAMES.key_subject(NAMES.over_key))
        await denied(bus, NAMES.key_subject(NAMES.recipe_key))


async def test_a_relay_says_where_it_is_and_nothing_else(server: EmbeddedServer) -> None:
    async with as_kind(server, "relay") as bus, as_kind(server, "generation") as other:
        async with hearing(other, NAMES.member_subjects) as heard:
            own = NAMES.member_key("relay", "relay-a")
            assert await said(bus, own, heard) == b"here"
        for subject in (
            NAMES.key_subject(NAMES.member_key("weight_sync", "weight_sync")),
            NAMES.key_subject(NAMES.member_key("generation", "generation-0")),
            *map(NAMES.key_subject, (NAMES.over_key, NAMES.recipe_key, NAMES.paused_key, NAMES.snapshot_key)),
            NAMES.key_subject("learner_epoch"),
            NAMES.ledger_version_subject(1),
            NAMES.ledger_batch_subject(1),
            NAMES.task_subject("train", "g1"),
            NAMES.log_subject("g1", 0),
        ):
            await denied(bus, subject)
        for stream in (NAMES.ledger, NAMES.log, NAMES.tasks):
            with pytest.raises((BusTimeout, BusRefused), match="(?i)permissions violation"):
                await bus.ask("what it may not", functools.partial(bus.js.stream_info, stream), within=SHORT)
    async with as_kind(server, "weight_sync") as bus:
        await denied(bus, NAMES.key_subject(NAMES.member_key("relay", "relay-b")))


@pytest.mark.parametrize("kind", ["rollout", "learner"])
async def test_whoever_starts_without_a_model_may_read_the_runs_bundle(server: EmbeddedServer, kind: str) -> None:
    bundle = bytes(range(256)) * 8
    async with as_kind(server, "operator") as operator, as_kind(server, kind) as bus:
        stored = await store_payload(operator, NAMES, bundle, limit=500)
        assert await load_payload(bus, NAMES, stored) == bundle


async def test_nobody_hears_anothers_answers(server: EmbeddedServer) -> None:
    async with as_kind(server, "rollout") as bus, as_kind(server, "coordinator") as other:
        heard = asyncio.Event()

        async def hear(_: object) -> None:
            heard.set()

        for subject in (">", "_INBOX_coordinator.>", "_INBOX.>", f"penstock.{NAMES.run}.>"):
            await bus.client.subscribe(subject, cb=hear)
        await stream_state(other, NAMES.log)
        await bus.client.flush()
        assert not heard.is_set()


async def test_with_certificates_a_password_alone_opens_nothing(tmp_path: Path) -> None:
    for name, issuer in (("ca", ""), ("nats", "ca"), ("learner", "ca")):
        issue(tmp_path, name, issuer)
    pair = {"certificate": tmp_path / "learner.crt", "key": tmp_path / "learner.key"}
    tls = Certificates.of_files(authority=tmp_path / "ca.crt", **pair).context()
    bare = Certificates.of_files(authority=tmp_path / "ca.crt").context()
    files = Files(tmp_path / "nats.crt", tmp_path / "nats.key", tmp_path / "ca.crt")
    store, secret = tmp_path / "store", USERS["operator"].login.secret
    async with EmbeddedServer(store, tmp_path / "log", users=USERS, tls=files, client_tls=tls) as running:
        assert running.monitor_url.startswith("https:")
        login = Login("operator", secret, tls)
        async with connect(running.url, name="t", login=login, monitor_url=running.monitor_url) as bus:
            await ensure_run(bus, NAMES, SMALL)
        for wrong, why in (
            (Login("operator", secret), "the server's certificate is not to be trusted .--tls-ca"),
            (Login("operator", secret, bare), "does not take our certificate .--tls-certificate, --tls-key"),
            (Login("operator", "guess", tls), "knows no such user, password or token .--nats-token-file"),
        ):
            with pytest.raises(LoginRefused, match=why):
                async with connect(running.url, name="t", login=wrong):
                    pass
