"""Calls between our services: kept connections, deadlines, and what a broken peer does to a call."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import httpx
import pytest
import uvloop

from coremesh.contracts import FilterRequest, FilterResponse
from coremesh.errors import DeadlineExceeded, ServiceUnavailable
from coremesh.mesh import Mesh, RewardPeer
from coremesh.settings import MeshSettings
from coremesh.transport import MAX_ANSWER_BYTES, HttptoolsTransport
from tests.wait import wait_until

BODY = b'{"safe":[true],"scores":[0.5],"active":true}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)
ASKED = FilterRequest(texts=("a poem",))
SAFE = FilterResponse(safe=(True,), scores=(0.5,), active=True)
LONG, SHORT = timedelta(seconds=20), timedelta(milliseconds=200)

Serve = Callable[["Peer", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A reward service made of bytes."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.connections = 0
        self.requests: list[bytes] = []
        self.open = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            await self._serve(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def request(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        self.requests.append(head + await reader.readexactly(length))


async def well(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await peer.request(reader)
        writer.write(ANSWER)


def says(answer: bytes) -> Serve:
    """Answers each request with these bytes, then hangs up."""

    async def serve(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(answer)
        await writer.drain()

    return serve


async def never(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await peer.request(reader)
    await reader.read()


@asynccontextmanager
async def calling(
    serve: Serve, transport: HttptoolsTransport | None = None, *, token: str = ""
) -> AsyncIterator[tuple[RewardPeer, Peer]]:
    peer = Peer(serve)
    server = await asyncio.start_server(peer.handle, "127.0.0.1", 0)
    url = "http://{}:{}/".format(*server.sockets[0].getsockname())
    async with transport or HttptoolsTransport(idle_s=20) as opened:
        yield RewardPeer("reward", url, opened, token=token), peer
    server.close()
    await wait_until(lambda: not peer.open, why="every connection is closed with the client")


async def test_a_call_goes_out_as_the_service_expects_it_and_the_connection_is_kept() -> None:
    async with calling(well, token="secret") as (reward, peer):
        for _ in range(3):
            assert await reward.filter(ASKED, LONG) == SAFE
    assert peer.connections == 1
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert (first, body) == (b"POST /filter HTTP/1.1", ASKED.model_dump_json().encode())
    headers = dict(line.lower().split(b": ", 1) for line in lines)
    assert headers.pop(b"host").startswith(b"127.0.0.1:")
    assert headers == {
        b"authorization": b"bearer secret",
        b"content-type": b"application/json",
        b"content-length": str(len(body)).encode(),
    }


async def test_calls_at_once_have_connections_of_their_own() -> None:
    async with calling(well) as (reward, peer):
        answers = await asyncio.gather(*(reward.filter(ASKED, LONG) for _ in range(8)))
        assert (answers, peer.connections) == ([SAFE] * 8, 8)
        await asyncio.gather(*(reward.filter(ASKED, LONG) for _ in range(8)))
        assert peer.connections == 8


async def test_a_kept_connection_that_died_is_replaced_without_the_caller_noticing() -> None:
    async def once(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(ANSWER)
        if peer.connections == 1:
            await reader.readexactly(1)  # the next request meets a peer that hangs up
            return
        await well(peer, reader, writer)

    async with calling(once) as (reward, peer):
        assert [await reward.filter(ASKED, LONG) for _ in range(3)] == [SAFE] * 3
        assert peer.connections == 2


async def test_a_fresh_connection_that_dies_is_an_error() -> None:
    async with calling(says(b"")) as (reward, peer):
        with pytest.raises(ServiceUnavailable, match="the connection broke"):
            await reward.filter(ASKED, LONG)
        assert peer.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n"
        % (BODY[:16], len(BODY) - 16, BODY[16:]),
        b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER,
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY),
    ],
    ids=["chunked", "after an interim answer", "the last on its connection"],
)
async def test_other_ways_to_answer(answer: bytes) -> None:
    async with calling(says(answer)) as (reward, peer):
        assert [await reward.filter(ASKED, LONG) for _ in range(2)] == [SAFE] * 2
        assert peer.connections == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"no HTTP at all\r\n\r\n", "is no HTTP"),
        (ANSWER[:-1], "the connection broke"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "wrong shape"),
        (b"HTTP/1.1 503 No\r\ncontent-length: 16\r\n\r\n" + b'{"message":"no"}', "answered 503: no"),
    ],
    ids=["noise", "cut off", "another shape", "an error"],
)
async def test_what_is_no_answer_makes_the_service_unavailable(answer: bytes, said: str) -> None:
    async with calling(says(answer)) as (reward, _):
        with pytest.raises(ServiceUnavailable, match=said):
            await reward.filter(ASKED, LONG)


async def test_what_is_no_json_makes_the_service_unavailable() -> None:
    async def page(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>")

    async with calling(page) as (reward, _):
        with pytest.raises(ServiceUnavailable, match="wrong shape"):
            await reward.get("/healthz", LONG)


async def test_an_answer_without_end_is_not_read_for_ever() -> None:
    async def flood(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * MAX_ANSWER_BYTES))
        while True:
            writer.write(b" " * 1_000_000)
            await writer.drain()

    async with calling(flood) as (reward, _):
        with pytest.raises(ServiceUnavailable, match="is no HTTP"):
            await reward.filter(ASKED, LONG)


async def test_an_answer_that_does_not_come_in_time_is_given_up_with_its_connection() -> None:
    async with calling(never) as (reward, peer):
        with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
            await reward.filter(ASKED, SHORT)
        await wait_until(lambda: not peer.open, why="the connection is closed")


async def test_a_call_that_is_cancelled_takes_its_connection_along() -> None:
    async with calling(never) as (reward, peer):
        call = asyncio.create_task(reward.filter(ASKED, LONG))
        await wait_until(lambda: peer.requests)
        call.cancel()
        await wait_until(lambda: not peer.open, why="the connection is closed")
        assert call.cancelled()


async def test_so_many_connections_and_no_more() -> None:
    gate = asyncio.Event()

    async def gated(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        await gate.wait()
        writer.write(ANSWER)
        await well(peer, reader, writer)

    async with calling(gated, HttptoolsTransport(idle_s=20, most=2)) as (reward, peer):
        first = [asyncio.create_task(reward.filter(ASKED, LONG)) for _ in range(2)]
        await wait_until(lambda: len(peer.requests) == 2)
        with pytest.raises(ServiceUnavailable, match="connections to it are in use"):
            await reward.filter(ASKED, SHORT)
        gate.set()
        assert await asyncio.gather(*first) == [SAFE] * 2
        assert await reward.filter(ASKED, LONG) == SAFE
        assert peer.connections == 2


async def test_who_waits_in_a_slow_service_is_not_in_the_way_of_calls_to_another() -> None:
    transport = HttptoolsTransport(idle_s=20, most=1)
    async with calling(never, transport) as (slow, peer):
        stuck = asyncio.create_task(slow.filter(ASKED, LONG))
        await wait_until(lambda: peer.requests)
        async with calling(well, transport) as (other, _):
            assert await other.filter(ASKED, LONG) == SAFE
        with pytest.raises(ServiceUnavailable):
            await stuck


@pytest.mark.parametrize(("said", "took_s"), [("0.25", 0.25), ("soon", 0.0), ("nan", 0.0), ("-1", 0.0)])
async def test_what_a_service_says_it_took(said: str, took_s: float) -> None:
    answer = ANSWER.replace(b"\r\n", f"\r\ncoremesh-took: {said}\r\n".encode(), 1)
    async with calling(says(answer)) as (reward, _):
        assert (await reward.filter(ASKED, LONG)).took_s == took_s


async def test_connections_kept_too_long_or_too_many_are_closed() -> None:
    async with calling(well, HttptoolsTransport(idle_s=20, most_idle=2)) as (reward, peer):
        await asyncio.gather(*(reward.filter(ASKED, LONG) for _ in range(5)))
        await wait_until(lambda: peer.open == 2)
    async with calling(well, HttptoolsTransport(idle_s=0)) as (reward, peer):
        for _ in range(3):
            await reward.filter(ASKED, LONG)
        assert peer.connections == 3


async def test_nobody_there() -> None:
    async with Mesh(MeshSettings(reward_url="http://127.0.0.1:1")) as mesh:
        with pytest.raises(ServiceUnavailable, match="no connection"):
            await mesh.reward.filter(ASKED, LONG)


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_name_that_is_looked_up_too_slowly_is_nobodys_error(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    said: list[str] = []

    async def calls() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, about: said.append(about["message"]))
        transport = HttptoolsTransport(idle_s=1.0)
        request = httpx.Request(
            "GET", "http://no-such-host.invalid/", extensions={"timeout": {"connect": 1e-6}}
        )
        for _ in range(3):
            with pytest.raises(httpx.ConnectTimeout):
                await transport.handle_async_request(request)
        # Looked up after those that nobody waits for.
        with suppress(OSError):
            await loop.getaddrinfo("no-such-host.invalid", 80)
        await asyncio.sleep(0.1)
        gc.collect()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(calls())
    assert said == []


async def test_https_is_spoken_where_the_address_says_so() -> None:
    hello = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello.set_result(await reader.readexactly(2))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    url = "https://{}:{}".format(*server.sockets[0].getsockname())
    async with Mesh(MeshSettings(reward_url=url)) as mesh:
        with pytest.raises(ServiceUnavailable, match="no connection"):
            await mesh.reward.filter(ASKED, LONG)
    server.close()
    assert hello.result() == b"\x16\x03"  # a TLS handshake
