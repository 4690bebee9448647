"""Clients that take a server's sockets or memory and give nothing: dropped in time, and nobody else is."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from coremesh.service.patience import patient
from tests.wait import wait_until

RECEIVE_S = 0.5
POST = b"POST /x HTTP/1.1\r\nhost: x\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"


async def gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body and answers ``ok``, or for as long as the client is there."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    else:
        return
    endless = scope["path"] == "/endless"
    headers = [] if endless else [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if endless:
        left = asyncio.create_task(gone(receive))
        while not left.done():
            await send({"type": "http.response.body", "body": bytes(65_536), "more_body": True})
            await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def server() -> AsyncIterator[uvicorn.Server]:
    server = uvicorn.Server(
        uvicorn.Config(app, http=patient(RECEIVE_S), lifespan="off", log_config=None, timeout_keep_alive=75)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await wait_until(lambda: server.started)
        yield server
        server.should_exit = server.force_exit = True
        await running


async def connect(server: uvicorn.Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.servers[0].sockets[0].getsockname()
    return await asyncio.open_connection(host, port)


async def heard(reader: asyncio.StreamReader) -> bytes:
    """All that the server says before it hangs up."""
    received = b""
    try:
        async with asyncio.timeout(20):
            while chunk := await reader.read(65_536):
                received += chunk
    except ConnectionError:
        pass
    return received


@pytest.mark.parametrize(
    "begun", [b"", b"\r\n", POST, POST + b"x: ", POST + b"content-length: 9\r\n\r\n{", CHUNKED + b"5\r\nab"]
)
async def test_what_never_arrives_whole_is_given_up(server: uvicorn.Server, begun: bytes) -> None:
    reader, writer = await connect(server)
    writer.write(begun)
    assert await heard(reader) == b""


async def test_an_empty_line_does_not_keep_a_connection_for_ever(server: uvicorn.Server) -> None:
    reader, writer = await connect(server)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    writer.write(b"\r\n")
    assert await heard(reader) == b""


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /" + b"a" * 70_000,
        POST + b"x: " + b"a" * 70_000,
        POST + b"x: y\r\n" * 200,
        CHUNKED + b"0\r\nx: " + b"a" * 300_000,
        CHUNKED + b"5;" + b"a" * 300_000,
    ],
)
async def test_what_has_no_end_is_refused(server: uvicorn.Server, endless: bytes) -> None:
    reader, writer = await connect(server)
    writer.write(endless)
    received = await heard(reader)
    # What was not read yet resets the connection, and may take the answer along.
    assert received == b"" or received.startswith(b"HTTP/1.1 400")


async def test_who_does_not_read_the_answer_is_dropped(server: uvicorn.Server) -> None:
    _, writer = await connect(server)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
    await wait_until(lambda: bool(server.server_state.connections))
    await wait_until(lambda: not server.server_state.connections)


async def test_a_long_body_and_slow_pieces_in_time_are_served(server: uvicorn.Server) -> None:
    reader, writer = await connect(server)
    writer.write(POST + b"content-length: 3000000\r\n\r\n" + bytes(3_000_000))
    assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
    for piece in (b"GET / HT", b"TP/1.1\r\nho", b"st: x\r\nconnection: close\r\n\r\n"):
        writer.write(piece)
        await asyncio.sleep(0.01)
    assert (await heard(reader)).endswith(b"ok")
