"""Awaiting a query in every way, streaming from one miner, and rewards on their way back."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import tracemalloc

import pytest

from coremesh.wire.adapters import BtauthAdapter, EpistulaAdapter, MinerRequest, RewardNotice
from coremesh.wire.btauth import verify
from coremesh.wire.nonces import InMemoryNonceStore
from coremesh.wire.status import Status
from services.querier.miners import MinerClient, MinerClientClosed, MinerLimits
from tests.integration.miners.conftest import SIGNER
from tests.integration.miners.stage import TEXT, Miner, Stage, Visit, answer, saying, wait_until

REQUEST = MinerRequest(("user",), ("Why is the sky blue?",), 3.0)
BAD = answer(status="500 Oops")


class Gate:
    """A miner that answers when told to."""

    def __init__(self, data: bytes = answer()) -> None:
        self.data = data
        self.opened = asyncio.Event()

    async def play(self, visit: Visit) -> None:
        while True:
            await visit.request()
            await self.opened.wait()
            await visit.send(self.data)


async def gated(stage: Stage, count: int, data: bytes = answer()) -> tuple[list[Gate], list[Miner]]:
    gates = [Gate(data) for _ in range(count)]
    return gates, [await stage.miner(gate.play) for gate in gates]


async def test_first_m_then_stragglers_still_count(stage: Stage, open_client) -> None:
    gates, miners = await gated(stage, 4)
    client = await open_client()
    fan_out = client.fan_out([m.target for m in miners], REQUEST)
    first = asyncio.ensure_future(fan_out.first(2))
    gates[3].opened.set()
    await wait_until(lambda: len(fan_out.so_far()) == 1)
    assert not first.done()
    gates[1].opened.set()
    got = await asyncio.wait_for(first, 2)
    assert [(a.uid, a.status) for a in got] == [(miners[i].target.uid, Status.OK) for i in (1, 3)]
    assert not fan_out.over
    gates[0].opened.set()
    gates[2].opened.set()
    assert [a.uid for a in await fan_out.all()] == [m.target.uid for m in miners]
    assert fan_out.over
    assert client.gauges()["running"] == 0


async def test_failures_do_not_count_towards_m_but_end_the_wait(stage: Stage, open_client) -> None:
    bad = await stage.miner(saying(BAD))
    gates, miners = await gated(stage, 1)
    client = await open_client()
    fan_out = client.fan_out([bad.target, miners[0].target], REQUEST)
    first = asyncio.ensure_future(fan_out.first(2))
    await wait_until(lambda: len(fan_out.so_far()) == 1)
    assert not first.done()
    gates[0].opened.set()
    assert [a.status for a in await asyncio.wait_for(first, 2)] == [Status.BAD_STATUS, Status.OK]


async def test_grace_takes_in_those_who_come_a_little_later(stage: Stage, open_client) -> None:
    gates, miners = await gated(stage, 3)
    client = await open_client()
    fan_out = client.fan_out([m.target for m in miners], REQUEST)
    gates[0].opened.set()
    waiting = asyncio.ensure_future(fan_out.first(1, grace_s=0.3))
    await wait_until(lambda: len(fan_out.so_far()) == 1)
    gates[1].opened.set()
    assert len(await waiting) == 2
    gates[2].opened.set()
    # With everybody in, no grace is waited for.
    assert len(await asyncio.wait_for(fan_out.first(1, grace_s=3600), 2)) == 3


async def test_as_they_come(stage: Stage, open_client) -> None:
    gates, miners = await gated(stage, 3)
    client = await open_client()
    fan_out = client.fan_out([m.target for m in miners], REQUEST)
    seen: list[int] = []
    order = [2, 0, 1]
    gates[order[0]].opened.set()
    async for got in fan_out:
        seen.append(got.uid)
        if len(seen) < 3:
            gates[order[len(seen)]].opened.set()
    assert seen == [miners[i].target.uid for i in order]


async def test_giving_up_waiting_does_not_disturb_the_query(stage: Stage, open_client) -> None:
    gates, miners = await gated(stage, 1)
    client = await open_client()
    fan_out = client.fan_out([miners[0].target], REQUEST)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fan_out.all(), 0.05)
    gates[0].opened.set()
    assert (await fan_out.all())[0].ok


async def test_cancelling_a_query_drops_it(stage: Stage, open_client) -> None:
    _, miners = await gated(stage, 3)
    client = await open_client()
    query = asyncio.ensure_future(client.query([m.target for m in miners], REQUEST))
    await wait_until(lambda: all(m.asked for m in miners))
    query.cancel()
    with pytest.raises(asyncio.CancelledError):
        await query
    await wait_until(lambda: not any(m.open for m in miners))
    assert client.gauges() == {
        "sockets": 0,
        "idle": 0,
        "waiting": 0,
        "breakers": 0,
        "running": 0,
        "rewards": 0,
    }


async def test_each_request_is_timed_from_its_own_send(stage: Stage, open_client) -> None:
    """Our own stall in the middle of a query is charged to nobody."""
    gates, miners = await gated(stage, 2)
    client = await open_client()
    fan_out = client.fan_out([m.target for m in miners], MinerRequest(("user",), ("hi",), 0.4))
    await wait_until(lambda: all(m.asked for m in miners))
    for gate in gates:
        gate.opened.set()
    await asyncio.sleep(0)  # the miners write; their bytes wait in our sockets
    time.sleep(0.6)  # noqa: ASYNC251
    assert [a.status for a in await fan_out.all()] == [Status.OK, Status.OK]


async def test_the_deadline_ends_everything(stage: Stage, open_client) -> None:
    _, miners = await gated(stage, 2)
    client = await open_client()
    fan_out = client.fan_out([m.target for m in miners], REQUEST, deadline=time.monotonic() + 0.1)
    got = await asyncio.wait_for(fan_out.all(), 1.5)
    assert [a.status for a in got] == [Status.TIMEOUT] * 2


async def test_nobody_to_ask(open_client) -> None:
    client = await open_client()
    fan_out = client.fan_out([], REQUEST)
    assert await fan_out.first(3, 1.0) == await fan_out.all() == []
    assert [a async for a in fan_out] == []


async def test_closing_the_client_ends_what_runs(stage: Stage) -> None:
    _, miners = await gated(stage, 2)
    async with MinerClient(BtauthAdapter(SIGNER), SIGNER.hotkey, MinerLimits(allow_loopback=True)) as client:
        fan_out = client.fan_out([m.target for m in miners], REQUEST)
        await wait_until(lambda: all(m.asked for m in miners))
    assert [(a.status, a.detail) for a in await fan_out.all()] == [(Status.NOT_SENT, "cancelled")] * 2
    await wait_until(lambda: not any(m.open for m in miners))
    with pytest.raises(MinerClientClosed):
        client.fan_out([], REQUEST)
    with pytest.raises(MinerClientClosed):
        client.send_rewards([])


# -- streaming --------------------------------------------------------------------------------------------------


def streaming(*events: str, pause: asyncio.Event | None = None, end: bool = True):
    async def play(visit: Visit) -> None:
        while True:
            asked = await visit.request()
            assert "text/event-stream" in asked.headers["accept"]
            head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            await visit.send(head.encode())
            for event in events:
                data = f"data: {event}\n\n".encode()
                await visit.send(b"%x\r\n%s\r\n" % (len(data), data))
                if pause is not None:
                    await pause.wait()
            if not end:
                return
            await visit.send(b"0\r\n\r\n")

    return play


async def test_tokens_are_heard_as_they_come(stage: Stage, open_client) -> None:
    pause = asyncio.Event()
    words = ["Blue light ", "scatters \\u0000more ", "than red."]
    play = streaming(*(f'{{"delta": "{word}"}}' for word in words), "[DONE]", pause=pause)
    miner = await stage.miner(play)
    client = await open_client()
    stream = client.stream(miner.target, REQUEST)
    heard: list[str] = []
    async for piece in stream:
        heard.append(piece)
        if len(heard) == 1:
            assert miner.open  # the rest has not been sent yet
            pause.set()
    assert heard == ["Blue light ", "scatters more ", "than red."]
    got = await stream.answer()
    assert (got.status, got.completion) == (Status.OK, "Blue light scatters more than red.")
    assert client.gauges()["idle"] == 1


async def test_a_miner_that_does_not_stream_gives_one_piece(stage: Stage, open_client) -> None:
    miner = await stage.miner(saying(answer()))
    client = await open_client()
    stream = client.stream(miner.target, REQUEST)
    assert [piece async for piece in stream] == [TEXT]
    assert (await stream.answer()).ok


@pytest.mark.parametrize(
    ("events", "end", "status"),
    [
        (['{"delta": "never ended properly"}'], False, Status.REFUSED),
        (['{"delta": "never said to be done"}'], True, Status.MALFORMED),
        (['{"delta": NaN}', "[DONE]"], True, Status.MALFORMED),
        (["x" * 70_000], True, Status.MALFORMED),
        (['{"delta": "' + "x" * 60_000 + '"}'] * 20, True, Status.TOO_BIG),
        (["[DONE]"], True, Status.EMPTY),
    ],
)
async def test_bad_streams(stage: Stage, open_client, events: list[str], end: bool, status: Status) -> None:
    miner = await stage.miner(streaming(*events, end=end))
    client = await open_client()
    stream = client.stream(miner.target, REQUEST)
    heard = [piece async for piece in stream]
    assert sum(map(len, heard)) <= 1024 * 1024
    got = await stream.answer()
    assert (got.status, got.completion) == (status, "")


async def test_giving_up_on_a_stream_closes_it(stage: Stage, open_client) -> None:
    miner = await stage.miner(streaming('{"delta": "first words "}', "[DONE]", pause=asyncio.Event()))
    client = await open_client()
    stream = client.stream(miner.target, REQUEST)
    async for _ in stream:
        break
    stream.cancel()
    assert (await stream.answer()).status is Status.NOT_SENT
    await wait_until(lambda: not miner.open)


async def test_an_openai_compatible_miner(stage: Stage) -> None:
    chunks = [
        {"choices": [{"index": 0, "delta": {"content": word}}]} for word in ("Rayleigh ", "scattering.")
    ]
    miner = await stage.miner(streaming(*map(json.dumps, chunks), "[DONE]"))
    limits = MinerLimits(allow_loopback=True)
    async with MinerClient(EpistulaAdapter(SIGNER, model="m"), SIGNER.hotkey, limits) as client:
        (got,) = await client.query([miner.target], REQUEST)
        assert (got.status, got.completion) == (Status.OK, "Rayleigh scattering.")
        assert [piece async for piece in client.stream(miner.target, REQUEST)] == ["Rayleigh ", "scattering."]
    assert {asked.line for asked in miner.asked} == {"POST /v1/chat/completions HTTP/1.1"}


# -- rewards ----------------------------------------------------------------------------------------------------


async def test_rewards_reach_their_miners(stage: Stage, open_client) -> None:
    miners = [await stage.miner(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")) for _ in range(3)]
    deaf = await stage.miner(saying(answer(status="404 Not Found")))
    client = await open_client(max_rewards_in_flight=2)
    notices = [
        (m.target, RewardNotice(REQUEST, f"answer {i}", (float(i), 0.5)))
        for i, m in enumerate([*miners, deaf])
    ]
    client.send_rewards(notices)
    await wait_until(lambda: client.gauges()["rewards"] == 0)
    counts = client.rewards
    assert (counts.queued, counts.delivered, counts.failed, counts.dropped) == (4, 3, 1, 0)
    assert client.gauges()["breakers"] == 0
    for i, miner in enumerate(miners):
        (asked,) = miner.asked
        verify(asked.headers, asked.body, "POST", "/backward", miner.target.hotkey, InMemoryNonceStore())
        assert json.loads(asked.body) == {
            "roles": ["user"],
            "messages": ["Why is the sky blue?"],
            "completion": f"answer {i}",
            "rewards": [i, 0.5],
        }


async def test_rewards_are_never_in_the_way(stage: Stage, open_client) -> None:
    _, stuck = await gated(stage, 3)
    good = await stage.miner(saying(answer()))
    client = await open_client(max_rewards_queued=100, max_rewards_in_flight=2, rewards_timeout_s=0.2)
    notice = RewardNotice(REQUEST, "text", (1.0,))
    client.send_rewards((stuck[i % 3].target, notice) for i in range(1000))
    assert client.gauges()["rewards"] <= 103
    assert (await client.query([good.target], REQUEST))[0].ok
    assert client.rewards.dropped >= 890
    with pytest.raises(ValueError, match="finite"):
        client.send_rewards([(good.target, RewardNotice(REQUEST, "text", (float("nan"),)))])


async def test_many_failing_rewards_do_not_recurse(stage: Stage, open_client) -> None:
    miner = await stage.miner(saying(answer()))
    blocked = miner.target.__class__(1, miner.target.hotkey, "10.0.0.1", 80)
    client = await open_client(max_rewards_queued=5000)
    client.send_rewards([(blocked, RewardNotice(REQUEST, "text", (1.0,)))] * 5000)
    await wait_until(lambda: client.gauges()["rewards"] == 0)
    assert client.rewards.failed == 5000


# -- memory -----------------------------------------------------------------------------------------------------


async def test_nothing_grows(stage: Stage, open_client) -> None:
    """Thousands of requests of every kind leave nothing behind, cycles aside."""
    oops = await stage.miner(saying(answer(status="500 Oops")))
    miners = [
        await stage.miner(saying(answer())),
        await stage.miner(saying(answer(more="connection: close\r\n"))),
        await stage.miner(saying(answer(b"[" * 1000))),
        oops,
        await stage.miner(saying(b"", close=True)),
        await stage.miner(saying(answer())),
    ]
    client = await open_client(breaker_failures=1_000_000)
    targets = [m.target for m in miners]

    async def rounds(count: int) -> None:
        for _ in range(count):
            got = await client.query(targets, REQUEST)
            assert [a.status for a in got] == [
                Status.OK,
                Status.OK,
                Status.MALFORMED,
                Status.BAD_STATUS,
                Status.REFUSED,
                Status.OK,
            ]
        for miner in miners:
            miner.asked.clear()

    await rounds(100)
    gc.collect()
    gauges = client.gauges()
    tracemalloc.start()
    try:
        await rounds(150)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        await rounds(600)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 64 * 1024  # 3,600 requests
    assert client.gauges() == gauges
