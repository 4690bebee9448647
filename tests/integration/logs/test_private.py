"""A private request leaves no text anywhere: every service real, everything that they write down searched."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import redis

from coremesh.history.callers import Changes, RedisCallers
from coremesh.history.redis import RedisHistory
from tests.integration.callers.conftest import bearer
from tests.integration.querier.conftest import World
from tests.integration.querier.network import Behaviour, answers
from tests.integration.traces.collector import Collector
from tests.integration.traces.test_mesh import free_port
from tests.redis_server import RedisServer
from tests.wait import wait_until

SECRET, OPEN = "quartzfinch", "plumvortex"
"""What private and what public requests say, and are told. The public ones prove that a search finds what there is."""
OPERATOR = {"authorization": "Bearer operator"}
STACK = """
name = "learns"

[[function]]
type = "relevance"
weight = 1.0
model = "sentence-transformers/all-MiniLM-L6-v2"
normalise = {by = "running"}

[[mask]]
type = "blacklist"
common = 0.3

[[mask]]
type = "diversity"
model = "sentence-transformers/all-MiniLM-L6-v2"
floor = 0.8
history = 2000
"""
"""All that a stack can learn from."""


def echoes() -> Behaviour:
    """A miner whose answer has the word of the question."""

    async def behave(body: dict[str, Any]) -> str:
        word = SECRET if any(SECRET in text for text in body["messages"]) else OPEN
        if any("hold on" in text for text in body["messages"]):
            await asyncio.sleep(1.0)
        return f"A {word} is a bird of the high plains that sings at dawn and sleeps in the grass at noon."

    return behave


def said(word: str, more: str = "") -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": f"What is a {word}, and where does a {word} live? {more}"}]
    }


class Found:
    """Everything that was written down, by where."""

    def __init__(self) -> None:
        self.places: dict[str, bytes] = {}

    def add(self, where: str, *what: bytes | str) -> None:
        text = b"\n".join(one if isinstance(one, bytes) else one.encode() for one in what)
        self.places[where] = self.places.get(where, b"") + text

    def with_(self, word: str) -> set[str]:
        return {where for where, text in self.places.items() if word.encode() in text.lower()}


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def redis_texts(url: str) -> Iterator[tuple[str, bytes]]:
    """Every key's content, what is compressed in it unpacked."""
    raw: Any = redis.Redis.from_url(url)
    for key in raw.scan_iter(count=1000):
        kind, name = raw.type(key), key.decode()
        if kind == b"stream":
            values = [value for _, fields in raw.xrange(key) for value in fields.values()]
        elif kind == b"hash":
            values = [part for pair in raw.hgetall(key).items() for part in pair]
        elif kind == b"zset":
            values = raw.zrange(key, 0, -1)
        else:
            assert kind == b"string", kind
            values = [raw.get(key)]
        yield name, name.encode()
        for value in values:
            yield name, value
            with suppress(zlib.error):
                yield name, zlib.decompress(value)


@asynccontextmanager
async def monitored(server: RedisServer) -> AsyncIterator[list[bytes]]:
    """Every command that Redis is sent, as its MONITOR tells it."""
    heard: list[bytes] = []
    reader, writer = await asyncio.open_unix_connection(server.socket)
    writer.write(b"MONITOR\r\n")
    assert await reader.readline() == b"+OK\r\n"

    async def listen() -> None:
        while more := await reader.read(1 << 16):
            heard.append(more)

    listening = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        writer.close()


class Services:
    """Real services that log at ``level``."""

    def __init__(self, world: World, folder: Path, collector: Collector, level: str) -> None:
        self.world = world
        self.folder = folder
        self.collector = collector
        self.level = level
        self.ports = {name: free_port() for name in ("gating", "reward", "querier", "weights")}
        self.clients: dict[str, httpx.AsyncClient] = {}
        self.processes: dict[str, asyncio.subprocess.Process] = {}

    @asynccontextmanager
    async def running(self, name: str, *flags: str) -> AsyncIterator[httpx.AsyncClient]:
        port = self.ports[name]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    f"services.{name}",
                    f"--http.port={port}",
                    f"--log.level={self.level}",
                ),
                *(f"--redis.url={self.world.redis_url}", f"--traces.endpoint={self.collector.url}"),
                *(
                    f"--mesh.{other}_url=http://127.0.0.1:{at}"
                    for other, at in self.ports.items()
                    if other != "querier"
                ),
                *flags,
                env={
                    **os.environ,
                    "HF_HUB_OFFLINE": "1",
                    "COREMESH_MESH_TOKEN": "shared",
                    "COREMESH_WALLET_PATH": str(self.world.wallet_path),
                    "COREMESH_WALLET_NAME": "validator",
                    "COREMESH_QUERIER_OPERATOR_TOKEN": "operator",
                },
                stdout=log,
                stderr=log,
            )
        self.processes[name] = process
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                self.clients[name] = client
                await wait_until(lambda: _alive(client), timeout=90, every=0.1, why=f"{name} is alive")
                yield client
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 40)


async def _alive(client: httpx.AsyncClient, path: str = "/healthz") -> bool:
    try:
        return (await client.get(path)).status_code == 200
    except httpx.HTTPError:
        return False


async def ask_in_every_way(client: httpx.AsyncClient, word: str, key: str, wish: dict[str, Any]) -> list[str]:
    """Ask with ``word``; gives the events. ``wish`` is what the body says of privacy."""
    headers = bearer(key)
    events: list[str] = []
    chat = {"model": "coremesh", "coremesh": wish}
    plain = await client.post("/inference", json={**said(word), **wish}, headers=headers)
    assert (plain.status_code, word in plain.json()["completion"]) == (200, True), plain.text
    events.append(plain.json()["event_id"])
    for body in ({}, {"stream": True}, {"n": 2}):
        answer = await client.post(
            "/v1/chat/completions", json={**chat, **said(word), **body}, headers=headers
        )
        assert (answer.status_code, word in answer.text) == (200, True), answer.text
        events.append(answer.headers["x-coremesh-event"])
    early = await client.post(
        "/inference", json={**said(word), **wish, "return_all": True, "wait_for": 1}, headers=headers
    )
    assert early.status_code == 200
    events.append(early.json()["event_id"])
    # What cannot be answered, and a caller that hangs up.
    for body in (
        {**said(word), "top_k": word},
        {**said(word), "timeout": 1e9},
        {"messages": [{"role": word, "content": word}]},
        {"messages": [{"role": "system", "content": word}]},
        said(word, word * 4000),
    ):
        refused = await client.post("/inference", json={**body, **wish}, headers=headers)
        assert refused.status_code in (400, 413)
        # An OpenAI client's extra fields are tolerated.
        refused = await client.post("/v1/chat/completions", json={**chat, **body}, headers=headers)
        assert (refused.status_code == 200) == bool({"top_k", "timeout"} & body.keys())
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/inference", json={**said(word, "hold on"), **wish}, headers=headers, timeout=0.3)
    return events


@pytest.mark.timeout(300)
@pytest.mark.parametrize("level", ["info", "debug"])
async def test_a_private_request_leaves_no_text_anywhere(
    world: World, own_redis: RedisServer, collector: Collector, tmp_path: Path, level: str
) -> None:
    first = world.history
    world.history, world.redis_url = RedisHistory(own_redis.url, 1), own_redis.url
    store = RedisCallers(own_redis.url, 1)
    raw: Any = redis.Redis.from_url(own_redis.url)
    raw.config_set("slowlog-log-slower-than", 0)
    raw.config_set("slowlog-max-len", 100_000)
    found = Found()
    logs, archive, board = tmp_path / "logs", tmp_path / "archive", tmp_path / "board"
    logs.mkdir()
    learns = tmp_path / "learns.toml"
    learns.write_text(STACK)
    services = Services(world, logs, collector, level)
    try:
        await world.miners(echoes(), echoes(), answers(500))
        async with AsyncExitStack() as stack:
            heard = await stack.enter_async_context(monitored(own_redis))
            await stack.enter_async_context(services.running("gating"))
            await stack.enter_async_context(services.running("reward", f"--reward.stack={learns}"))
            await stack.enter_async_context(
                services.running(
                    "weights",
                    *("--chain.network=ws://127.0.0.1:1", "--chain.timeout_s=1"),
                    *(f"--archive.to={archive}", "--archive.texts=true", "--archive.part_s=1"),
                    f"--archive.event_log={tmp_path / 'eventlog'}",
                    *("--wandb.mode=offline", "--wandb.texts=true", f"--wandb.directory={board}"),
                )
            )
            querier = await stack.enter_async_context(
                services.running(
                    "querier",
                    *(
                        "--querier.allow_loopback=true",
                        "--querier.axon_off=true",
                        "--querier.require_key=true",
                    ),
                    *("--querier.reward_timeout_s=20", "--querier.gating_timeout_s=20"),
                    f"--querier.spool={world.spool}",
                )
            )
            await wait_until(lambda: _alive(querier, "/readyz"), timeout=60, every=0.2)
            free = Changes(per_minute=0, concurrent=0)
            plain, _ = await store.create("plain", free)
            quiet, _ = await store.create("quiet", Changes(per_minute=0, concurrent=0, private=True))
            events = await ask_in_every_way(querier, SECRET, quiet, {})
            events += await ask_in_every_way(querier, SECRET, plain, {"private": True})
            shown = await ask_in_every_way(querier, OPEN, plain, {})
            for event_id in (*events, *shown):
                await world.event(event_id)

            # Reward and gating go: what is said about it names no text either.
            for name in ("reward", "gating"):
                services.processes[name].kill()
                await services.processes[name].wait()
                answer = await querier.post("/inference", json=said(SECRET), headers=bearer(quiet))
                assert (answer.status_code, name in answer.json()["degraded"]) == (200, True)
                events.append(answer.json()["event_id"])

            async def archived() -> bool:
                log = tmp_path / "eventlog" / "events.log"
                wrote = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
                rows = [row for part in archive.rglob("*.parquet") for row in pq.read_table(part).to_pylist()]
                return len(wrote) >= len(events + shown) and len(rows) >= len(events + shown)

            await wait_until(archived, timeout=60, every=0.3)

            async def on_board() -> bool:
                kept = b"".join(text for _, text in files(board))
                return all(event_id.encode() in kept for event_id in (*events, *shown))

            await wait_until(on_board, timeout=90, every=0.3)
            for name, client in services.clients.items():
                if services.processes[name].returncode is None:
                    found.add(f"metrics of {name}", (await client.get("/metrics")).text)
            for path in ("/history?count=500", "/dashboard/api/events", "/dashboard/api/overview", "/miners"):
                told = await querier.get(path, headers=OPERATOR)
                assert told.status_code == 200, (path, told.text)
                found.add(f"GET {path}", told.text)
            for at, text in redis_texts(own_redis.url):
                found.add(f"redis {at}", text)
            found.add("slowlog", repr(raw.execute_command("SLOWLOG", "GET", 100_000)))
            found.add("commands", b"".join(heard))

            # Redis goes: events wait on the disk.
            own_redis.kill()
            for word, key in ((SECRET, quiet), (OPEN, plain)):
                answer = await querier.post("/inference", json=said(word), headers=bearer(key))
                assert answer.status_code == 200
            await wait_until(lambda: len(list(world.spool.rglob("*.event"))) == 2)
            for name, text in files(world.spool):
                found.add(f"spool {name}", text)
            own_redis.start()
            await wait_until(lambda: not list(world.spool.rglob("*.event")), timeout=30)
        await wait_until(lambda: len(collector.named("forward")) >= len(events + shown))
    finally:
        await store.close()
        await world.history.close()
        world.history = first
    found.add("traces", *collector.bodies)
    for name, text in files(logs):
        found.add(f"log {name}", text)
    for name, text in files(tmp_path / "eventlog"):
        found.add(f"event log {name}", text)
    for name, text in files(board):
        found.add(f"wandb {name}", text)
    for part in archive.rglob("*.parquet"):
        found.add(f"archive {part.parent.parent.name}", repr(pq.read_table(part).to_pylist()))
    for name, text in files(own_redis.directory):
        found.add(f"redis' file {name}", text)

    assert found.with_(SECRET) == set()
    where = {place.split()[0] for place in found.with_(OPEN)}
    assert where == {"redis", "redis'", "commands", "GET", "spool", "event", "wandb", "archive", "slowlog"}
