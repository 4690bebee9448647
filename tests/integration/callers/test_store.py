"""Keys, limits and nonces in a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import redis

from coremesh.errors import BadRequest, HistoryUnavailable
from coremesh.history.callers import Changes, RedisCallers, UnknownCaller, Verdict, id_of
from tests.redis_server import RedisServer
from tests.wait import wait_until

HELD = timedelta(seconds=5)
OK = Verdict("ok")


@pytest.fixture
async def stores(redis_url: str) -> AsyncIterator[tuple[RedisCallers, RedisCallers]]:
    """The stores of two replicas."""
    two = RedisCallers(redis_url, 1), RedisCallers(redis_url, 1)
    yield two
    for store in two:
        await store.close()


async def test_a_key_is_kept_as_a_digest_only(
    stores: tuple[RedisCallers, RedisCallers], redis_url: str
) -> None:
    key, record = await stores[0].create("ada", Changes(per_minute=7, concurrent=2, private=True))
    assert id_of(key) == record.id
    assert record.digest == sha256(key.encode()).digest()
    assert (record.name, record.per_minute, record.concurrent, record.scored, record.private) == (
        "ada",
        7,
        2,
        True,
        True,
    )
    assert record.is_key(key)
    assert not record.is_key(key[:-1])
    assert not record.is_key("\ud800")
    assert await stores[1].records() == [record]
    raw = redis.Redis.from_url(redis_url)
    secret = key.removeprefix(f"cm_{record.id}_").encode()
    assert len(secret) == 43
    everything = b"".join(raw.dump(name) or b"" for name in raw.scan_iter())  # type: ignore[operator]
    assert record.id.encode() in everything
    assert secret not in everything


@pytest.mark.parametrize("key", ["", "cm_", "cm_0123456789ab", "sk_0123456789ab_x", "cm_0123456789aX_x"])
def test_other_text_is_no_key(key: str) -> None:
    assert id_of(key) is None


async def test_changes_are_seen_by_all_and_wrong_ones_refused(
    stores: tuple[RedisCallers, RedisCallers],
) -> None:
    _, record = await stores[0].create("ada")
    await asyncio.gather(
        stores[0].change(record.id, Changes(per_minute=5)), stores[1].change(record.id, Changes(scored=False))
    )
    (found,) = await stores[0].records()
    assert (found.per_minute, found.concurrent, found.scored, found.revoked_ms) == (5, 4, False, 0)
    assert (await stores[1].revoke(record.id)).revoked_ms > 0
    with pytest.raises(UnknownCaller):
        await stores[0].revoke("0" * 12)
    for wrong in (Changes(per_minute=-1), Changes(concurrent=1_000_000)):
        with pytest.raises(BadRequest):
            await stores[0].change(record.id, wrong)
    for name in ("", " ", "x" * 65, "a\nb"):
        with pytest.raises(BadRequest):
            await stores[0].create(name)


async def test_the_rate_is_one_for_both_replicas(stores: tuple[RedisCallers, RedisCallers]) -> None:
    verdicts = await asyncio.gather(
        *(
            stores[n % 2].admit("a", f"t{n}", record=b"", per_minute=5, concurrent=0, held=HELD)
            for n in range(20)
        )
    )
    assert sum(verdict == OK for verdict in verdicts) == 5
    refused = [verdict for verdict in verdicts if verdict != OK]
    assert {verdict.result for verdict in refused} == {"rate"}
    assert all(50 < verdict.retry_after_s <= 60 for verdict in refused)
    # A repeated call (its answer got lost) is the same request; another caller has its own limit.
    admitted = f"t{verdicts.index(OK)}"
    assert await stores[0].admit("a", admitted, record=b"", per_minute=5, concurrent=0, held=HELD) == OK
    assert await stores[1].admit("b", "t0", record=b"", per_minute=5, concurrent=0, held=HELD) == OK


async def test_a_request_leaves_the_rate_after_a_minute(
    stores: tuple[RedisCallers, RedisCallers], redis_url: str
) -> None:
    store = stores[0]
    assert await store.admit("a", "t0", record=b"", per_minute=1, concurrent=0, held=HELD) == OK
    raw = redis.Redis.from_url(redis_url)
    raw.zincrby(store.keys.asked("a"), -59_000, "t0")
    verdict = await store.admit("a", "t1", record=b"", per_minute=1, concurrent=0, held=HELD)
    assert verdict.result == "rate"
    assert 0 < verdict.retry_after_s <= 1
    raw.zincrby(store.keys.asked("a"), -1_000, "t0")
    assert await store.admit("a", "t2", record=b"", per_minute=1, concurrent=0, held=HELD) == OK
    assert 0 < raw.pttl(store.keys.asked("a")) <= 60_000  # type: ignore[operator]


async def test_places_are_shared_given_back_and_lapse(stores: tuple[RedisCallers, RedisCallers]) -> None:
    async def enter(n: int, ticket: str, held: timedelta = HELD) -> str:
        return (await stores[n].admit("a", ticket, record=b"", per_minute=0, concurrent=2, held=held)).result

    brief = timedelta(milliseconds=300)
    assert [await enter(0, "t0"), await enter(1, "t1", brief), await enter(1, "t2")] == [
        "ok",
        "ok",
        "concurrent",
    ]
    await stores[1].release("a", "t0")
    assert [await enter(0, "t3"), await enter(0, "t4")] == ["ok", "concurrent"]

    async def lapsed() -> bool:
        return await enter(0, "t5") == "ok"

    # The replica of t1 stands still: its place comes free by itself. That of t3 is held on to.
    await wait_until(lapsed, timeout=5)
    await stores[0].hold("a", ["t3", "t5"], HELD)
    assert await enter(0, "t6") == "concurrent"
    # It goes on, and what it serves counts again, also beyond the limit.
    await stores[1].hold("a", ["t1"], HELD)
    await stores[0].release("a", "t3")
    assert await enter(0, "t6") == "concurrent"
    await stores[1].release("a", "t1")
    assert await enter(0, "t6") == "ok"


async def test_a_changed_key_is_not_counted(stores: tuple[RedisCallers, RedisCallers]) -> None:
    _, record = await stores[0].create("ada")
    found = await stores[0].record(record.id)
    assert found is not None
    assert found[0] == record

    async def enter(ticket: str) -> Verdict:
        return await stores[0].admit(
            record.id, ticket, record=found[1], per_minute=1, concurrent=1, held=HELD
        )

    await stores[1].change(record.id, Changes(per_minute=2))
    assert await enter("t0") == Verdict("changed")
    await stores[1].change(record.id, Changes(per_minute=60))
    assert await enter("t1") == OK


async def test_a_nonce_is_new_once(stores: tuple[RedisCallers, RedisCallers], redis_url: str) -> None:
    news = await asyncio.gather(*(stores[n % 2].add("5Hotkey", 17, 0) for n in range(6)))
    assert sorted(news) == [False] * 5 + [True]
    assert await stores[0].add("5Other", 17, 0)
    ttl = redis.Redis.from_url(redis_url).pttl(stores[0].keys.nonce("5Hotkey", 17))
    assert 15_000 < ttl <= 30_000  # type: ignore[operator]


async def test_a_dead_redis_is_noticed_soon_and_not_asked_all_the_time(tmp_path: Path) -> None:
    store = RedisCallers(f"unix://{tmp_path}/none.sock", 1, pause=timedelta(seconds=60))
    with pytest.raises(HistoryUnavailable, match="does not answer"):
        await store.records()
    with pytest.raises(HistoryUnavailable, match="a moment ago"):
        await store.add("5Hotkey", 1, 0)
    await store.close()


async def test_a_redis_that_is_back_is_used_again(redis_server: RedisServer, redis_url: str) -> None:
    store = RedisCallers(redis_url, 1, pause=timedelta(milliseconds=50))
    _, record = await store.create("ada")
    redis_server.kill()
    with pytest.raises(HistoryUnavailable):
        await store.records()
    redis_server.start()

    async def back() -> bool:
        try:
            return [found.id for found in await store.records()] == [record.id]
        except HistoryUnavailable:
            return False

    await wait_until(back)
    await store.close()


async def test_one_caller_at_a_time_waits_for_a_redis_that_hangs(
    redis_server: RedisServer, redis_url: str
) -> None:
    store = RedisCallers(redis_url, 1, timeout=timedelta(seconds=0.5), pause=timedelta(seconds=0.1))
    await store.records()
    redis_server.pause()
    try:
        with pytest.raises(HistoryUnavailable, match="Timeout"):
            await store.records()
        await asyncio.sleep(0.2)
        said = await asyncio.gather(*(store.records() for _ in range(8)), return_exceptions=True)
        assert sum("a moment ago" in str(error) for error in said) == 7
    finally:
        redis_server.resume()

    async def back() -> bool:
        try:
            return await store.records() == []
        except HistoryUnavailable:
            return False

    await wait_until(back)
    assert await asyncio.gather(*(store.records() for _ in range(8))) == [[]] * 8
    await store.close()
