"""Connections: kept, found dead, capped, secured; and whom we never speak to."""

from __future__ import annotations

import asyncio
import os
import resource
import ssl
import subprocess
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from coremesh.wire.adapters import MinerRequest
from coremesh.wire.btauth import verify
from coremesh.wire.nonces import InMemoryNonceStore
from coremesh.wire.status import Status
from services.querier.miners import Tls
from services.querier.miners.limits import Target
from tests.integration.miners.conftest import SIGNER
from tests.integration.miners.stage import TEXT, Asked, Stage, Visit, answer, saying, wait_until

REQUEST = MinerRequest(("user",), ("Why is the sky blue?",), 1.0)


async def test_the_request_on_the_wire(stage: Stage, open_client) -> None:
    miner = await stage.miner(saying(answer()))
    client = await open_client()
    await client.query([miner.target], REQUEST)
    (asked,) = miner.asked
    auth = {name: asked.headers.pop(name) for name in tuple(asked.headers) if name.startswith("x-bittensor-")}
    hotkey = verify(auth, asked.body, "POST", "/forward", miner.target.hotkey, InMemoryNonceStore())
    assert hotkey == SIGNER.hotkey
    assert asked == Asked(
        line="POST /forward HTTP/1.1",
        headers={
            "host": f"{miner.target.host}:{miner.target.port}",
            "content-length": str(len(asked.body)),
            "accept-encoding": "identity",
            "content-type": "application/json",
            "accept": "application/json",
        },
        body=b'{"roles":["user"],"messages":["Why is the sky blue?"],"timeout":1.0}',
        connection=0,
    )


async def test_connections_are_kept_for_their_hotkey_alone(stage: Stage, open_client) -> None:
    miner = await stage.miner(saying(answer()))
    sibling = msgspec.structs.replace(miner.target, uid=99, hotkey=SIGNER.hotkey.lower())
    client = await open_client()
    for _ in range(3):
        await client.query([miner.target], REQUEST)
    await client.query([sibling], REQUEST)
    assert [asked.connection for asked in miner.asked] == [0, 0, 0, 1]
    assert client.gauges()["idle"] == 2


async def test_idle_connections_are_closed_by_us(stage: Stage, open_client) -> None:
    miner = await stage.miner(saying(answer()))
    client = await open_client(keep_alive_s=0.1)
    await client.query([miner.target], REQUEST)
    assert client.gauges()["idle"] == 1
    await wait_until(lambda: client.gauges()["sockets"] == 0 and not miner.open)
    assert (await client.query([miner.target], REQUEST))[0].ok
    assert [asked.connection for asked in miner.asked] == [0, 1]


@pytest.mark.parametrize("farewell", [b"", b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"])
async def test_a_connection_closed_while_idle_is_not_used(stage: Stage, open_client, farewell: bytes) -> None:
    async def once(visit: Visit) -> None:
        await visit.request()
        await visit.send(answer())
        await visit.send(farewell)

    miner = await stage.miner(once)
    client = await open_client()
    for _ in range(3):
        (got,) = await client.query([miner.target], REQUEST)
        assert got.ok
        await wait_until(lambda: client.gauges()["sockets"] == 0)
    assert [asked.connection for asked in miner.asked] == [0, 1, 2]


def dies_at(requests: set[int], *, begun: bytes = b""):
    """Answers, but closes on the n-th requests of its life without more than ``begun``."""

    async def play(visit: Visit) -> None:
        while True:
            await visit.request()
            if len(visit.asked) in requests:
                await visit.send(begun)
                return
            await visit.send(answer())

    return play


async def test_a_kept_connection_found_dead_is_retried_once_with_a_fresh_nonce(
    stage: Stage, open_client
) -> None:
    miner = await stage.miner(dies_at({2}))
    client = await open_client()
    assert (await client.query([miner.target], REQUEST))[0].ok
    assert (await client.query([miner.target], REQUEST))[0].ok
    assert [asked.connection for asked in miner.asked] == [0, 0, 1]
    store = InMemoryNonceStore()
    for asked in miner.asked:
        verify(asked.headers, asked.body, "POST", "/forward", miner.target.hotkey, store)


async def test_it_is_not_retried_twice(stage: Stage, open_client) -> None:
    miner = await stage.miner(dies_at({2, 3}))
    client = await open_client()
    await client.query([miner.target], REQUEST)
    (got,) = await client.query([miner.target], REQUEST)
    assert got.status is Status.REFUSED
    assert len(miner.asked) == 3


async def test_it_is_not_retried_once_an_answer_has_begun(stage: Stage, open_client) -> None:
    miner = await stage.miner(dies_at({2}, begun=b"HTTP"))
    client = await open_client()
    await client.query([miner.target], REQUEST)
    (got,) = await client.query([miner.target], REQUEST)
    assert got.status is Status.REFUSED
    assert len(miner.asked) == 2


async def test_thinking_before_a_connection_is_dropped_counts(stage: Stage, open_client) -> None:
    async def play(visit: Visit) -> None:
        await visit.request()
        if visit.number == 0:
            await visit.send(answer())
            await visit.request()
            await asyncio.sleep(0.3)  # it has the question: a drop must not buy it another start
        else:
            await visit.send(answer())

    miner = await stage.miner(play)
    client = await open_client()
    await client.query([miner.target], REQUEST)
    (got,) = await client.query([miner.target], REQUEST)
    assert got.ok
    assert len(miner.asked) == 3
    assert got.latency_s >= 0.3

    slow = await stage.miner(play)
    short = MinerRequest(("user",), ("Why is the sky blue?",), 0.15)
    await client.query([slow.target], short)
    (got,) = await client.query([slow.target], short)
    assert got.status is Status.TIMEOUT
    assert len(slow.asked) == 2


async def test_what_a_kept_connection_says_unasked_answers_nothing(stage: Stage, open_client) -> None:
    miner = await stage.miner(dies_at(set()))
    client = await open_client()
    assert (await client.query([miner.target], REQUEST))[0].ok
    (socket,) = miner.sockets
    # Past the loop: the bytes are in our socket before the loop has a turn to read them.
    os.write(socket.fileno(), answer(b'{"completion": "An answer to nothing yet."}'))
    (got,) = await client.query([miner.target], REQUEST)
    assert (got.status, got.completion) == (Status.OK, TEXT)
    assert [asked.connection for asked in miner.asked] == [0, 1]


async def test_an_answer_that_comes_before_the_question_is_none(stage: Stage, open_client) -> None:
    async def eager(visit: Visit) -> None:
        await visit.send(answer())
        await visit.request()

    miner = await stage.miner(eager)
    client = await open_client(breaker_failures=100)
    # Whether its bytes are here by the time that we could ask is for the kernel to say: mostly they are.
    got = [(await client.query([miner.target], REQUEST))[0] for _ in range(20)]
    caught = [a for a in got if (a.status, a.detail) == (Status.MALFORMED, "spoke before it was asked")]
    assert caught
    assert len(miner.asked) <= len(got) - len(caught)


async def test_a_want_of_file_descriptors_is_charged_to_nobody(stage: Stage, open_client) -> None:
    miner = await stage.miner(saying(answer()))
    client = await open_client()
    free = os.dup(0)  # the lowest descriptor that a socket would get
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        (got,) = await client.query([miner.target], REQUEST)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (got.status, got.detail) == (Status.NOT_SENT, "EMFILE")
    assert client.gauges()["breakers"] == 0
    assert (await client.query([miner.target], REQUEST))[0].ok


async def test_nobody_there(stage: Stage, open_client) -> None:
    miner = await stage.miner(saying(answer()))
    miner.server.close()
    client = await open_client()
    (got,) = await client.query([miner.target], REQUEST)
    assert (got.status, got.detail) == (Status.REFUSED, "ConnectionRefusedError")
    assert got.latency_s != got.latency_s  # nan: nothing was sent


async def test_never_ourselves_nor_inside(stage: Stage, open_client, monkeypatch: pytest.MonkeyPatch) -> None:
    miner = await stage.miner(saying(answer()))
    monkeypatch.setenv("http_proxy", f"http://{miner.target.host}:{miner.target.port}")
    monkeypatch.setenv("ALL_PROXY", f"http://{miner.target.host}:{miner.target.port}")
    target = miner.target
    wrong = [
        msgspec.structs.replace(target, hotkey=SIGNER.hotkey),
        msgspec.structs.replace(target, host="10.0.0.1"),
        msgspec.structs.replace(target, host="localhost"),
        msgspec.structs.replace(target, host="::1"),
        msgspec.structs.replace(target, host="0.0.0.0"),
        msgspec.structs.replace(target, port=0),
        msgspec.structs.replace(target, port=65536),
    ]
    client = await open_client()
    for _ in range(6):
        got = await client.query(wrong, REQUEST)
        assert [a.status for a in got] == [Status.BLOCKED_ADDRESS] * len(wrong)
    public_only = await open_client(allow_loopback=False)
    (got,) = await public_only.query([target], REQUEST)
    assert (got.status, got.detail) == (Status.BLOCKED_ADDRESS, "special-purpose address")
    assert miner.asked == []
    assert not miner.open


async def test_the_breaker_spares_the_miner_and_tries_again(stage: Stage, open_client) -> None:
    broken = True

    async def play(visit: Visit) -> None:
        while True:
            await visit.request()
            await visit.send(answer(status="500 Oops") if broken else answer())

    miner = await stage.miner(play)
    client = await open_client(breaker_failures=3, breaker_base_s=0.2)

    async def ask() -> Status:
        return (await client.query([miner.target], REQUEST))[0].status

    assert [await ask() for _ in range(5)] == [Status.BAD_STATUS] * 3 + [Status.BREAKER_OPEN] * 2
    assert len(miner.asked) == 3
    broken = False
    statuses: list[Status] = []

    async def until_ok() -> None:
        while Status.OK not in statuses:
            statuses.append(await ask())
            await asyncio.sleep(0.01)

    await asyncio.wait_for(until_ok(), 10)
    assert set(statuses) == {Status.BREAKER_OPEN, Status.OK}
    assert [await ask() for _ in range(2)] == [Status.OK] * 2
    assert client.gauges()["breakers"] == 0


async def test_sockets_are_capped_and_requests_wait_their_turn(stage: Stage, open_client) -> None:
    at_once = most = 0

    async def play(visit: Visit) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            while True:
                await visit.request()
                await asyncio.sleep(0.01)
                await visit.send(answer())
        finally:
            at_once -= 1

    miners = [await stage.miner(play) for _ in range(20)]
    client = await open_client(max_sockets=4)
    got = await client.query([m.target for m in miners], MinerRequest(("user",), ("hi",), 5.0))
    assert [a.status for a in got] == [Status.OK] * 20
    # A socket is counted out as soon as it is aborted, its peer hears of it a moment later.
    assert most <= 8
    assert client.gauges()["sockets"] <= 4
    assert client.gauges()["waiting"] == 0


async def test_waiting_is_bounded_and_not_charged(stage: Stage, open_client) -> None:
    async def never(visit: Visit) -> None:
        await visit.request()
        await visit.reader.read()

    miners = [await stage.miner(never) for _ in range(6)]
    client = await open_client(max_sockets=2, max_waiting=2)
    deadline = asyncio.get_running_loop().time() + 0.3
    got = await client.query(
        [m.target for m in miners], MinerRequest(("user",), ("hi",), 5.0), deadline=deadline
    )
    assert [a.status for a in got] == [Status.TIMEOUT] * 2 + [Status.NOT_SENT] * 4
    assert [a.detail for a in got[2:]] == ["no socket was free"] * 2 + ["no socket is free"] * 2
    assert client.gauges()["breakers"] == 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    folder: Path = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=miner"
    )
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=30
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, sha256(ssl.PEM_cert_to_DER_cert(cert.read_text())).hexdigest()


async def test_tls_pinned_and_not(stage: Stage, open_client, certificate) -> None:
    context, fingerprint = certificate
    pins = ["", fingerprint, fingerprint.upper(), "00" * 32]
    miners = [await stage.miner(saying(answer()), context=context, tls=Tls(pin)) for pin in pins]
    client = await open_client()
    for connection in range(2):
        got = await client.query([m.target for m in miners], REQUEST)
        assert [a.status for a in got] == [Status.OK, Status.OK, Status.OK, Status.REFUSED]
        assert got[0].completion == TEXT
        assert got[3].detail == "the certificate is not the pinned one"
        assert [len(m.asked) for m in miners] == [connection + 1] * 3 + [0]
    assert {asked.connection for m in miners for asked in m.asked} == {0}


async def test_tls_where_there_is_none(stage: Stage, open_client) -> None:
    async def plain(visit: Visit) -> None:
        await visit.reader.read(100)
        await visit.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    miner = await stage.miner(plain, tls=Tls())
    client = await open_client()
    (got,) = await client.query([miner.target], REQUEST)
    assert got.status is Status.REFUSED
    await wait_until(lambda: client.gauges()["sockets"] == 0)


async def test_a_silent_handshake_times_out(stage: Stage, open_client) -> None:
    async def deaf(visit: Visit) -> None:
        await visit.reader.read()

    miner = await stage.miner(deaf, tls=Tls())
    client = await open_client(connect_timeout_s=0.2)
    (got,) = await client.query([miner.target], REQUEST)
    assert got.status in (Status.TIMEOUT, Status.REFUSED)
    await wait_until(lambda: client.gauges()["sockets"] == 0)


async def test_ipv6(stage: Stage, open_client) -> None:
    miner = await stage.miner(saying(answer()))
    mapped = Target(1, miner.target.hotkey, f"::ffff:{miner.target.host}", miner.target.port)
    client = await open_client()
    (got,) = await client.query([mapped], REQUEST)
    assert got.status is Status.OK
    assert miner.asked[0].headers["host"] == f"[::ffff:{miner.target.host}]:{miner.target.port}"
