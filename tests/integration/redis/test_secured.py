"""Redis behind TLS with a CA of its own, for an ACL user that may do what coremesh does and no more."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from coremesh.errors import BadSetting, HistoryUnavailable
from coremesh.history import Checkpoint
from coremesh.history.callers import RedisCallers
from coremesh.history.page import Page, has_pages
from coremesh.history.probe import probe
from coremesh.history.redis import RedisHistory
from coremesh.settings import RedisSettings, load
from coremesh.settings.redisurl import RedisAddress, parse_address
from coremesh.types import ORIGIN, hotkey_digest
from tests.events import hotkey, make_event
from tests.integration.redis.servers import Server

OPERATOR_DOC = Path(__file__).parents[3] / "docs" / "operator.md"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path / "redis")
    # As the documentation says it.
    (line,) = [one for one in OPERATOR_DOC.read_text().splitlines() if one.startswith("ACL SETUSER")]
    words = line.replace("PASSWORD", "p/w:d").split()
    found.client().execute_command(*words)
    found.client().execute_command("ACL", "SETUSER", "default", "off")
    yield found
    found.kill()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A CA and a certificate of 127.0.0.1 that it signed."""
    commands = (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ours",
        "req -newkey rsa:2048 -nodes -keyout redis.key -out redis.csr -subj /CN=redis",
        "x509 -req -in redis.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out redis.pem -extfile names",
    )
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1")
    for command in commands:
        subprocess.run(
            ["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True, timeout=60
        )
    return tmp_path


@pytest.fixture
async def tls_port(server: Server, files: Path) -> AsyncIterator[int]:
    """TLS in front of Redis."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files / "redis.pem", files / "redis.key")

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pipe(reader, to), pipe(behind, writer))

    listening = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    yield listening.sockets[0].getsockname()[1]
    listening.close()


def settings(*flags: str) -> RedisSettings:
    return load([RedisSettings], flags)[RedisSettings]


async def test_all_that_coremesh_does_works_for_its_acl_user_over_tls(tls_port: int, files: Path) -> None:
    redis_settings = settings(
        f"--redis.url=rediss://127.0.0.1:{tls_port}/0",
        "--redis.username=coremesh",
        "--redis.password=p/w:d",
        f"--redis.tls_ca={files / 'ca.pem'}",
    )
    assert "p/w:d" not in repr(redis_settings)
    history = RedisHistory(redis_settings.address, 1)
    await history.ping()
    event = make_event({1: 0.5})
    place = await history.append(event, None, [hotkey(1)])
    assert [entry.stream_id for entry in await history.read(ORIGIN, 10)] == [place]
    assert [entry.stream_id for entry in await history.read(ORIGIN, 10, timedelta(seconds=1))] == [place]
    assert [entry.stream_id for entry in await history.read(ORIGIN, 1000)] == [place]
    swept: list[str] = []
    assert await history.sweep(ORIGIN, 10, Page(10), lambda page: swept.append(page.last)) == (
        1 if has_pages() else None
    )
    assert swept == ([place] if has_pages() else [])
    lease = await history.acquire("weights", "me", timedelta(seconds=30))
    assert lease is not None
    await history.save("scores", Checkpoint(last_id=place, state=b"s", format="f"), lease, ORIGIN)
    assert await history.trim(0, ("scores",)) == 1
    assert await history.forget_hotkeys([hotkey_digest(hotkey(1))]) == 0
    await history.release(lease)
    await history.close()
    facts = await asyncio.to_thread(probe, redis_settings.address, timedelta(seconds=20))
    assert facts.version.count(".") == 2
    callers = RedisCallers(redis_settings.address, 1)
    _, record = await callers.create("someone")
    assert [one.id for one in await callers.records()] == [record.id]
    limits = {"record": b"", "per_minute": 1, "concurrent": 1, "held": timedelta(seconds=30)}
    assert (await callers.admit(record.id, "t1", **limits)).result == "ok"
    await callers.hold(record.id, ["t1"], timedelta(seconds=30))
    await callers.release(record.id, "t1")
    assert (await callers.revoke(record.id)).revoked_ms
    assert await callers.add("5Hotkey", 1, 1)
    await callers.close()


async def test_the_acl_user_may_do_no_more(server: Server) -> None:
    client: Any = redis.Redis(port=server.port, username="coremesh", password="p/w:d", protocol=2)
    for words in (["FLUSHALL"], ["CONFIG", "GET", "*"], ["KEYS", "*"], ["GET", "other"], ["SHUTDOWN"]):
        with pytest.raises(redis.ResponseError, match="no permissions"):
            client.execute_command(*words)


async def test_a_certificate_of_another_ca_is_refused(tls_port: int) -> None:
    history = RedisHistory(f"rediss://coremesh:x@127.0.0.1:{tls_port}/0", 1, timeout=timedelta(seconds=1))
    with pytest.raises(HistoryUnavailable):
        await history.ping()
    await history.close()


@pytest.mark.parametrize(
    ("flags", "address"),
    [
        (["--redis.url=redis://h:1/2"], "redis://h:1/2"),
        (["--redis.url=unix:///a/b.sock?db=3"], "unix:///a/b.sock?db=3"),
        (
            ["--redis.url=unix:///a", "--redis.username=u", "--redis.password=p&"],
            "unix:///a?username=u&password=p%26",
        ),
        (["--redis.url=rediss://o:x@h/1", "--redis.password=p@/"], "rediss://o:p%40%2F@h/1"),
        (
            ["--redis.url=rediss://h/1?socket_keepalive=yes", "--redis.tls_ca=/c a"],
            "rediss://h/1?socket_keepalive=yes&ssl_ca_certs=%2Fc+a",
        ),
        (
            ["--redis.url=redis+sentinel://a:1,b/m/3", "--redis.username=u", "--redis.password=p"],
            "redis+sentinel://u:p@a:1,b/m/3",
        ),
    ],
)
def test_an_address_is_completed_by_what_is_set_apart(flags: list[str], address: str) -> None:
    assert settings(*flags).address == address


def test_an_address_is_taken_apart() -> None:
    url = "rediss+sentinel://u:p%2F@a:1,[::1]:2,c/mesh/3?sentinel_password=s&ssl_ca_certs=/ca"
    assert parse_address(url) == RedisAddress(
        "sentinel",
        url,
        nodes=(("a", 1), ("::1", 2), ("c", 26379)),
        master="mesh",
        db=3,
        tls=True,
        username="u",
        password="p/",
        options={"sentinel_password": "s", "ssl_ca_certs": "/ca"},
    )
    url = "redis+cluster://a,b:7000"
    assert parse_address(url) == RedisAddress("cluster", url, nodes=(("a", 6379), ("b", 7000)))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://a", r"must start with redis://"),
        ("redis+sentinel://a:1", "name of a master"),
        ("redis+sentinel://a:1/m/x", "name of a master"),
        ("redis+cluster://a:1/3", "the database 0 only"),
        ("redis+cluster://a:1?db=3", "no option 'db'"),
        ("redis+cluster://a:x", "host:port,host:port"),
        ("redis+cluster://", "host:port,host:port"),
        ("redis+cluster://a:99999", "host:port,host:port"),
    ],
)
def test_an_address_that_is_none_is_one_sentence(url: str, says: str) -> None:
    with pytest.raises(BadSetting, match=says):
        settings(f"--redis.url={url}")


def test_a_ca_without_tls_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"--redis.tls_ca: got '/ca'.* not of the kind rediss://"):
        settings("--redis.tls_ca=/ca")
