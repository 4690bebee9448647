"""What miners may try, and the one outcome each attempt has."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from coremesh.wire.adapters import MinerRequest
from coremesh.wire.status import Status
from services.querier.miners import MinerAnswer
from tests.integration.miners.stage import BODY, TEXT, Stage, Visit, answer, saying, wait_until

REQUEST = MinerRequest(("user",), ("Why is the sky blue?",), 0.6)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def completion(text: str) -> bytes:
    return json.dumps({"completion": text}).encode()


def chunked(body: bytes, size: int = 7, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n" + trailer + b"\r\n"


ANSWERED = {
    "content-length": answer(),
    "chunked": chunked(BODY),
    "chunked with extensions and a trailer": chunked(BODY, extension=b";a=b", trailer=b"x: y\r\n"),
    "charset": answer(content_type="Application/JSON; charset=utf-8"),
    "identity encoding": answer(more="content-encoding: identity\r\n"),
    "an empty header": answer(more="x-empty:\r\n"),
    "cookies": answer(more="".join(f"set-cookie: c{i}={'x' * 100}\r\n" for i in range(20))),
    "processing first": b"HTTP/1.1 102 Processing\r\n\r\n" + answer(),
    "hints, continue, then 200": b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    + answer(),
    "fields of its own": answer(json.dumps({"completion": TEXT, "x": {"y": [1, 2, None]}}).encode()),
    "a second answer nobody asked for": answer() + answer(completion("I am not what was asked for.")),
    "garbage behind the answer": answer() + b"\0\0 garbage",
}


@pytest.mark.parametrize("name", ANSWERED)
async def test_answers_are_read_whole_or_in_pieces(stage: Stage, open_client, name: str) -> None:
    data = ANSWERED[name]
    whole = await stage.miner(saying(data))
    pieces = await stage.miner(saying(*(data[at : at + 11] for at in range(0, len(data), 11))))
    client = await open_client()
    for _ in range(2):
        for got in await client.query([whole.target, pieces.target], REQUEST):
            assert (got.status, got.completion) == (Status.OK, TEXT)
            assert 0 < got.latency_s < 0.6


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n",
    ],
)
async def test_a_body_that_ends_with_the_connection(stage: Stage, open_client, head: bytes) -> None:
    miner = await stage.miner(saying(head + BODY, close=True))
    client = await open_client()
    for _ in range(2):
        (got,) = await client.query([miner.target], REQUEST)
        assert (got.status, got.completion) == (Status.OK, TEXT)
    assert [asked.connection for asked in miner.asked] == [0, 1]


@pytest.mark.parametrize("more", ["connection: close\r\n", "Connection: Close\r\n"])
async def test_connection_close_is_respected(stage: Stage, open_client, more: str) -> None:
    miner = await stage.miner(saying(answer(more=more)))
    client = await open_client()
    for _ in range(3):
        assert (await client.query([miner.target], REQUEST))[0].ok
    assert [asked.connection for asked in miner.asked] == [0, 1, 2]
    assert client.gauges()["idle"] == 0


DEEP = b'{"completion": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
BIG = 3 * 1024 * 1024
REFUSED: dict[str, tuple[bytes, Status]] = {
    "redirect": (
        answer(status="307 Temporary Redirect", more="location: http://127.0.0.1:1/\r\n"),
        Status.BAD_STATUS,
    ),
    "moved": (answer(status="301 Moved", more="location: /elsewhere\r\n"), Status.BAD_STATUS),
    "server error": (answer(status="500 Internal Server Error"), Status.BAD_STATUS),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", Status.BAD_STATUS),
    "partial": (answer(status="206 Partial Content"), Status.BAD_STATUS),
    "switching protocols": (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nwild bytes",
        Status.BAD_STATUS,
    ),
    "gzip": (answer(gzip.compress(BODY), more="content-encoding: gzip\r\n"), Status.MALFORMED),
    "gzip bomb": (
        answer(gzip.compress(bytes(50_000_000)), more="content-encoding: gzip\r\n"),
        Status.MALFORMED,
    ),
    "gzip unsaid": (answer(gzip.compress(BODY)), Status.MALFORMED),
    "gzip as transfer": (HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Status.MALFORMED),
    "two encodings": (
        answer(more="content-encoding: identity\r\ncontent-encoding: br\r\n"),
        Status.MALFORMED,
    ),
    "html": (answer(content_type="text/html"), Status.MALFORMED),
    "no type": (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY, Status.MALFORMED),
    "two types": (answer(more="content-type: text/plain\r\n"), Status.MALFORMED),
    "a stream unasked and unended": (
        answer(b"data: x\n\n", content_type="text/event-stream"),
        Status.MALFORMED,
    ),
    "announced too big": (HEAD + b"content-length: 1048577\r\n\r\n", Status.TOO_BIG),
    "announced beyond numbers": (HEAD + b"content-length: 99999999999999999\r\n\r\n", Status.TOO_BIG),
    "too big": (answer(b"x" * BIG), Status.TOO_BIG),
    "too big in chunks": (chunked(b"x" * BIG, size=8192), Status.TOO_BIG),
    "too much framing": (chunked(b"x" * 200_000, size=1, extension=b";" + b"a" * 40), Status.TOO_BIG),
    "endless until close": (HEAD + b"\r\n" + b"x" * BIG, Status.TOO_BIG),
    "many characters": (answer(completion("x" * 70_000)), Status.TOO_BIG),
    "many headers": (answer(more="".join(f"x{i}: y\r\n" for i in range(80))), Status.TOO_BIG),
    "long headers": (answer(more="".join(f"x{i}: {'y' * 2000}\r\n" for i in range(10))), Status.TOO_BIG),
    "one long header": (answer(more=f"x: {'y' * 100_000}\r\n"), Status.TOO_BIG),
    "a long header name": (HEAD + b"x" * 100_000, Status.TOO_BIG),
    "a long reason": (b"HTTP/1.1 200 " + b"y" * 100_000, Status.TOO_BIG),
    "endless trailers": (chunked(BODY, trailer=b"x: y\r\n" * 100), Status.TOO_BIG),
    "endless interim": (b"HTTP/1.1 102 Processing\r\nx: y\r\n\r\n" * 5000 + answer(), Status.TOO_BIG),
    "deep": (answer(DEEP), Status.MALFORMED),
    "deep beside": (answer(b'{"completion": "x", "y": ' + b"[" * 40 + b"]" * 40 + b"}"), Status.MALFORMED),
    "NaN": (answer(b'{"completion": "x", "score": NaN}'), Status.MALFORMED),
    "bare NaN": (answer(b"NaN"), Status.MALFORMED),
    "a list": (answer(b'["text"]'), Status.MALFORMED),
    "a number": (answer(b'{"completion": 17}'), Status.MALFORMED),
    "bad UTF-8": (answer(b'{"completion": "\xff\xfe"}'), Status.MALFORMED),
    "no JSON": (answer(b"text"), Status.MALFORMED),
    "no body": (answer(b""), Status.MALFORMED),
    "two lengths": (answer(more="content-length: 5\r\n"), Status.MALFORMED),
    "length and chunks": (answer(more="transfer-encoding: chunked\r\n"), Status.MALFORMED),
    "a negative length": (HEAD + b"content-length: -5\r\n\r\n" + BODY, Status.MALFORMED),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", Status.MALFORMED),
    "a request": (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", Status.MALFORMED),
    "bad chunk size": (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", Status.MALFORMED),
    "a bare line feed": (HEAD + b"x: y\nz: w\r\n\r\n", Status.MALFORMED),
    "HTTP/9.9": (b"HTTP/9.9 200 OK\r\n\r\n", Status.MALFORMED),
    "null": (answer(b'{"completion": null}'), Status.EMPTY),
    "nothing": (answer(b"{}"), Status.EMPTY),
    "white space": (answer(completion(" \n\t ")), Status.EMPTY),
    "only the invisible": (answer(completion("\0\u200b\u202e\x1b")), Status.EMPTY),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(stage: Stage, open_client, name: str) -> None:
    data, status = REFUSED[name]
    miner = await stage.miner(saying(data))
    client = await open_client()
    (got,) = await client.query([miner.target], REQUEST)
    assert (got.uid, got.hotkey) == (miner.target.uid, miner.target.hotkey)
    assert (got.status, got.completion) == (status, "")
    assert len(got.detail) <= 120
    assert len(miner.asked) == 1
    if status in (Status.BAD_STATUS, Status.REFUSED):
        assert client.gauges()["idle"] == 0
    await wait_until(lambda: client.gauges()["sockets"] == client.gauges()["idle"])


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", Status.REFUSED),
        (b"HTTP/1.1 200 OK\r\n", Status.REFUSED),
        (HEAD + b"content-length: 1000\r\n\r\n" + BODY, Status.REFUSED),
        (chunked(BODY)[:-5], Status.REFUSED),
        (HEAD + b"content-length: 10\r\n\r\n" + BODY, Status.MALFORMED),
        (HEAD + b"\r\n" + BODY[:-4], Status.MALFORMED),
    ],
)
async def test_cut_off(stage: Stage, open_client, data: bytes, status: Status) -> None:
    miner = await stage.miner(saying(data, close=True))
    client = await open_client()
    (got,) = await client.query([miner.target], REQUEST)
    assert (got.status, got.completion) == (status, "")
    assert len(miner.asked) == 1  # a fresh connection that dies is not tried again


async def drip(visit: Visit) -> None:
    await visit.request()
    await visit.send(HEAD + b"content-length: 100000\r\n\r\n")
    while True:
        await visit.send(b" ")
        await asyncio.sleep(0.02)


async def drip_headers(visit: Visit) -> None:
    await visit.request()
    await visit.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await visit.send(b"x: y\r\n")
        await asyncio.sleep(0.1)


async def silence(visit: Visit) -> None:
    await visit.request()
    await visit.reader.read()


async def deafness(visit: Visit) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("play", [drip, drip_headers, silence])
async def test_time_is_total(stage: Stage, open_client, play) -> None:
    miner = await stage.miner(play)
    client = await open_client()
    (got,) = await client.query([miner.target], MinerRequest(("user",), ("hi",), 0.3))
    assert (got.status, got.completion) == (Status.TIMEOUT, "")
    assert got.latency_s >= 0.3
    assert client.gauges()["idle"] == 0


async def test_text_is_cleaned(stage: Stage, open_client) -> None:
    raw = (
        rb'{"completion": "  half \ud83d an emoji,\u0000 a \u001b[31mbell\u0007 and \u202eturned text \r\n"}'
    )
    miner = await stage.miner(saying(answer(raw)))
    client = await open_client()
    (got,) = await client.query([miner.target], REQUEST)
    assert got.completion == "half \ufffd an emoji, a [31mbell and turned text"


async def test_short(stage: Stage, open_client) -> None:
    ten = await stage.miner(saying(answer(completion(" 0123456789\n"))))
    eleven = await stage.miner(saying(answer(completion("0123456789a"))))
    stuffed = await stage.miner(saying(answer(completion("[S\u200bEP][CLS]<|im_end|>" * 20 + " yes"))))
    client = await open_client()
    got = await client.query([ten.target, eleven.target, stuffed.target], REQUEST)
    assert [(a.status, a.completion) for a in got] == [
        (Status.SHORT, "0123456789"),
        (Status.OK, "0123456789a"),
        (Status.SHORT, "[SEP][CLS]<|im_end|>" * 20 + " yes"),
    ]


async def test_one_bad_miner_costs_the_others_nothing(stage: Stage, open_client) -> None:
    bad = [await stage.miner(saying(data)) for data, _ in REFUSED.values()]
    good = [await stage.miner(saying(answer())) for _ in range(5)]
    slow = await stage.miner(drip)
    targets = [miner.target for miner in (*bad, slow, *good)]
    client = await open_client()
    got: list[MinerAnswer] = await client.query(targets, MinerRequest(("user",), ("hi",), 2.0))
    expected = [status for _, status in REFUSED.values()] + [Status.TIMEOUT] + [Status.OK] * 5
    assert [a.status for a in got] == expected
    assert [a.uid for a in got] == [t.uid for t in targets]
