"""The history in Redis (6.2 or newer, or Valkey)."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any, cast

import msgspec
from redis.backoff import ExponentialWithJitterBackoff

from coremesh.events import ForwardEvent, MetagraphEvent, Transcript, decode, decode_transcript, encode
from coremesh.history import scripts
from coremesh.history.bulk import BulkReader
from coremesh.history.connect import Connection, blocking_pool
from coremesh.history.guard import guarded
from coremesh.history.keys import HOTKEY_MARGIN, SEEN_RETENTION, Keys
from coremesh.history.page import Page
from coremesh.history.protocol import Checkpoint, Entry, Lease, Submission, SubmissionEntry
from coremesh.metagraph import Metagraph, decode_metagraph, encode_metagraph
from coremesh.types import ORIGIN, StreamId, event_id_ms, hotkey_digest, stream_key

TRANSCRIPTS_KEPT = 5_000
COMPRESSED_ASIDE_BYTES = 32 * 1024
TRANSCRIPT_WITHIN_MS = 100
"""How much later than its event a transcript may stand, of an older Redis whose clock goes on within a script."""
SUBMISSIONS_KEPT = 20_000
MANY = 200
"""Events that are worth a thread's while."""
TRIM_AT_ONCE = 2_000
"""Events dropped in one script call, so that Redis is never held for long."""
HOTKEYS_AT_ONCE = 1_000

CONNECT_S = 2.0
TRIES = 2

_submission_decoder = msgspec.msgpack.Decoder(Submission)


class RedisHistory:
    """A History in Redis. ``url`` is an address of coremesh.settings.redisurl; raises ValueError for another.

    Commands have ``timeout`` each; waiting reads use connections of their own, so they never delay a command.
    Hotkeys are sent with events once in ``known_for``: a failover may lose what Redis has said it took.
    """

    def __init__(
        self,
        url: str,
        netuid: int,
        *,
        timeout: timedelta = timedelta(seconds=5),
        known_for: timedelta = timedelta(minutes=1),
    ) -> None:
        seconds = timeout.total_seconds()
        self.keys = Keys(netuid)
        self._commands = Connection(
            url, timeout_s=seconds, connect_s=min(seconds, CONNECT_S), backoff=_backoff, tries=TRIES
        )
        self._reads = Connection(
            url, timeout_s=None, connect_s=min(seconds, CONNECT_S), backoff=_backoff, tries=TRIES
        )
        self._redis, self._waiting = self._commands.redis, self._reads.redis
        pool = blocking_pool(
            url, timeout_s=seconds, connect_s=min(seconds, CONNECT_S), backoff=_backoff(), tries=TRIES
        )
        self._bulk = BulkReader(pool) if pool is not None else None
        self._known: set[str] = set()
        self._known_until = 0.0
        self._known_for = known_for.total_seconds()
        self._timeout = seconds
        register = self._redis.register_script
        self._append = register(scripts.APPEND)
        self._publish = register(scripts.PUBLISH)
        self._save = register(scripts.SAVE)
        self._acquire = register(scripts.ACQUIRE)
        self._renew = register(scripts.RENEW)
        self._release = register(scripts.RELEASE)
        self._submit = register(scripts.SUBMIT)
        self._trim = register(scripts.TRIM)
        self._announce = register(scripts.ANNOUNCE)
        self._forget = register(scripts.FORGET)

    @guarded
    async def append(
        self, event: ForwardEvent, transcript: Transcript | None, hotkeys: list[str]
    ) -> StreamId:
        """See History.append."""
        if (now := time.monotonic()) > self._known_until:
            self._known.clear()
            self._known_until = now + self._known_for
        fresh = [hotkey for hotkey in hotkeys if hotkey and hotkey not in self._known]
        texts = await _compressed(encode(transcript)) if transcript else b""
        keys = self.keys
        place, _ = await self._append(
            keys=[
                keys.events,
                keys.transcripts,
                keys.seen(event_id_ms(event.id)),
                keys.hotkeys,
                keys.announced,
            ],
            args=[event.id, encode(event), texts, TRANSCRIPTS_KEPT, _seen_ttl(), *_dictionary(fresh)],
        )
        self._known.update(fresh)
        return _text(place)

    @guarded
    async def read(
        self,
        after: StreamId,
        count: int,
        block: timedelta | None = None,
        decode: Callable[[bytes], Any] = decode,
    ) -> list[Entry]:
        """See History.read. Many at once are read in a thread."""
        if block is None and count >= MANY and self._bulk is not None:
            return await asyncio.to_thread(self._bulk.read, self.keys.events, after, count, decode)
        if block is None:
            rows = await self._redis.xrange(self.keys.events, min=f"({after}", max="+", count=count)
            return _entries(rows, decode)
        wait_ms = max(1, int(block.total_seconds() * 1000))
        # A half-dead socket must not hold a reader for ever.
        async with asyncio.timeout(block.total_seconds() + self._timeout):
            answer = await self._waiting.xread({self.keys.events: after}, count=count, block=wait_ms)
        return _entries(answer[0][1], decode) if answer else []

    @guarded
    async def sweep(self, after: StreamId, most: int, page: Page, take: Callable[[Page], None]) -> int | None:
        """See History.sweep. A cluster is read the ordinary way."""
        if self._bulk is None:
            return None
        return await asyncio.to_thread(self._bulk.sweep, self.keys.events, after, most, page, take)

    @guarded
    async def tail(self, count: int) -> list[Entry]:
        """See History.tail."""
        return _entries(await self._redis.xrevrange(self.keys.events, count=count))

    @guarded
    async def find(self, event_id: str) -> Entry | None:
        """See History.find."""
        place = await self._place(event_id)
        if place is None:
            return None
        rows = await self._redis.xrange(self.keys.events, min=place, max=place)
        return _entries(rows)[0] if rows else None

    async def _place(self, event_id: str) -> StreamId | None:
        try:
            seen = self.keys.seen(event_id_ms(event_id))
        except ValueError:
            return None
        place = await self._redis.hget(seen, event_id)
        return _text(place) if place is not None else None

    @guarded
    async def last_id(self) -> StreamId:
        """See History.last_id."""
        rows = await self._redis.xrevrange(self.keys.events, count=1)
        return _text(rows[0][0]) if rows else ORIGIN

    @guarded
    async def length(self) -> int:
        """See History.length."""
        return int(await self._redis.xlen(self.keys.events))

    @guarded
    async def trimmed(self) -> StreamId:
        """See History.trimmed."""
        place = await self._redis.get(self.keys.trimmed)
        return _text(place) if place else ORIGIN

    @guarded
    async def trim(self, keep: int, folds: tuple[str, ...]) -> int:
        """See History.trim."""
        keys = [self.keys.events, self.keys.trimmed, *(self.keys.checkpoint(fold) for fold in folds)]
        dropped = 0
        while n := int(await self._trim(keys=keys, args=[keep, TRIM_AT_ONCE])):
            dropped += n
        return dropped

    @guarded
    async def transcript(self, event_id: str) -> Transcript | None:
        """See History.transcript."""
        place = await self._place(event_id)
        if place is not None:
            # In the step that appended the event, by the same clock.
            placed_ms = stream_key(place)[0]
            return await self._transcript(event_id, placed_ms, placed_ms + TRANSCRIPT_WITHIN_MS, page=8)
        try:
            # Where the id is forgotten: from the event's own time on, over at most what is retained.
            return await self._transcript(event_id, event_id_ms(event_id), None, page=100)
        except ValueError:
            return None

    async def _transcript(
        self, event_id: str, from_ms: int, until_ms: int | None, *, page: int
    ) -> Transcript | None:
        start, until = f"{from_ms}-0", "+" if until_ms is None else str(until_ms)
        for _ in range(TRANSCRIPTS_KEPT // page + 1):
            rows = await self._redis.xrange(self.keys.transcripts, min=start, max=until, count=page)
            for place, fields in rows:
                if fields[b"i"].decode() == event_id:
                    return decode_transcript(zlib.decompress(fields[b"t"]))
                start = f"({place.decode()}"
            if len(rows) < page:
                break
        return None

    @guarded
    async def resolve(self, digests: list[int]) -> dict[int, str]:
        """See History.resolve."""
        if not digests:
            return {}
        found = await self._redis.hmget(self.keys.hotkeys, [str(digest) for digest in digests])
        return {d: hotkey.decode() for d, hotkey in zip(digests, found, strict=True) if hotkey is not None}

    @guarded
    async def forget_hotkeys(self, keep: Collection[int], margin: timedelta = HOTKEY_MARGIN) -> int:
        """See History.forget_hotkeys."""
        now_ms = await self._announced("GT", sorted(keep))
        if await self._redis.hlen(self.keys.hotkeys) > await self._redis.zcard(self.keys.announced):
            # Written by a process of before hotkeys had a time.
            cursor = None
            while cursor != 0:
                cursor, found = await self._redis.hscan(self.keys.hotkeys, cursor or 0, count=HOTKEYS_AT_ONCE)
                await self._announced("NX", [int(digest) for digest in found])
        keys = [self.keys.events, self.keys.hotkeys, self.keys.announced]
        args = [now_ms, int(margin.total_seconds() * 1000), HOTKEYS_AT_ONCE]
        forgotten = 0
        while n := int(await self._forget(keys=keys, args=args)):
            forgotten += n
        return forgotten

    async def _announced(self, condition: str, digests: list[int]) -> int:
        """Say that hotkeys are wanted. Gives when that began, by the clock of Redis."""
        keys = [self.keys.hotkeys, self.keys.announced]
        times = [
            int(await self._announce(keys=keys, args=[condition, *digests[at : at + HOTKEYS_AT_ONCE]]))
            for at in range(0, max(1, len(digests)), HOTKEYS_AT_ONCE)
        ]
        return times[0]

    @guarded
    async def metagraph(self) -> Metagraph | None:
        """See History.metagraph."""
        packed = await self._redis.get(self.keys.metagraph)
        return decode_metagraph(packed) if packed else None

    @guarded
    async def publish(
        self, metagraph: Metagraph, event: MetagraphEvent | None, lease: Lease
    ) -> StreamId | None:
        """See History.publish."""
        keys = self.keys
        place = await self._publish(
            keys=[
                keys.metagraph,
                keys.events,
                keys.seen(event_id_ms(event.id) if event else 0),
                keys.hotkeys,
                keys.fence(lease.role),
                keys.announced,
            ],
            args=[
                lease.token,
                encode_metagraph(metagraph),
                event.id if event else "",
                encode(event) if event else b"",
                _seen_ttl(),
                *_dictionary(metagraph.hotkeys),
            ],
        )
        return _text(place) if place else None

    @guarded
    async def load(self, fold: str) -> Checkpoint | None:
        """See History.load."""
        row = await self._redis.hgetall(self.keys.checkpoint(fold))
        if not row:
            return None
        return Checkpoint(
            last_id=_text(row[b"last_id"]),
            state=row[b"state"],
            version=int(row[b"version"]),
            format=row[b"format"].decode(),
            time_ms=int(row[b"time_ms"]),
        )

    @guarded
    async def version(self, fold: str) -> int:
        """See History.version."""
        return int(await self._redis.hget(self.keys.checkpoint(fold), "version") or 0)

    @guarded
    async def save(self, fold: str, checkpoint: Checkpoint, lease: Lease, expected: StreamId) -> Checkpoint:
        """See History.save."""
        version = await self._save(
            keys=[self.keys.checkpoint(fold), self.keys.fence(lease.role)],
            args=[
                lease.token,
                expected,
                checkpoint.last_id,
                checkpoint.state,
                checkpoint.format,
                checkpoint.time_ms,
                lease.server,
            ],
        )
        return msgspec.structs.replace(checkpoint, version=int(version))

    @guarded
    async def acquire(self, role: str, holder: str, ttl: timedelta) -> Lease | None:
        """See History.acquire."""
        taken = await self._acquire(
            keys=[self.keys.lease(role), self.keys.fence(role)], args=[holder, _milliseconds(ttl)]
        )
        if not taken or taken[0] is None:
            return None
        token, server = taken
        return Lease(role, holder, int(token), _text(server))

    @guarded
    async def renew(self, lease: Lease, ttl: timedelta) -> bool:
        """See History.renew."""
        kept = await self._renew(
            keys=[self.keys.lease(lease.role), self.keys.fence(lease.role)],
            args=[lease.holder, _milliseconds(ttl), lease.token],
        )
        return bool(kept)

    @guarded
    async def release(self, lease: Lease) -> None:
        """See History.release."""
        await self._release(keys=[self.keys.lease(lease.role)], args=[lease.holder])

    @guarded
    async def leader(self, role: str) -> str | None:
        """See History.leader."""
        holder = await self._redis.get(self.keys.lease(role))
        return holder.decode() if holder else None

    @guarded
    async def submit(self, submission: Submission, lease: Lease) -> StreamId:
        """See History.submit."""
        place = await self._submit(
            keys=[self.keys.submissions, self.keys.fence(lease.role)],
            args=[lease.token, msgspec.msgpack.encode(submission), SUBMISSIONS_KEPT],
        )
        return _text(place)

    @guarded
    async def submissions(self, count: int) -> list[SubmissionEntry]:
        """See History.submissions."""
        rows = await self._redis.xrevrange(self.keys.submissions, count=count)
        return [SubmissionEntry(_text(at), _submission_decoder.decode(fields[b"s"])) for at, fields in rows]

    @guarded
    async def ping(self) -> None:
        """See History.ping."""
        # A key of ours, and not PING: of a cluster it asks the one member that holds the history.
        await self._redis.exists(self.keys.metagraph)

    async def close(self) -> None:
        """See History.close."""
        await self._commands.close()
        await self._reads.close()
        if self._bulk is not None:
            self._bulk.close()


async def _compressed(texts: bytes) -> bytes:
    """Aside when they are long: what fifty hostile miners say takes a third of a second."""
    if len(texts) < COMPRESSED_ASIDE_BYTES:
        return zlib.compress(texts, 6)
    return await asyncio.to_thread(zlib.compress, texts, 6)


def _backoff() -> ExponentialWithJitterBackoff:
    return ExponentialWithJitterBackoff(base=0.02, cap=0.2)


def _entries(
    rows: list[tuple[bytes, dict[bytes, bytes]]], decode: Callable[[bytes], Any] = decode
) -> list[Entry]:
    return [Entry(_text(place), decode(fields[b"e"])) for place, fields in rows]


def _text(value: bytes | str) -> StreamId:
    return cast(StreamId, value.decode() if isinstance(value, bytes) else value)


def _milliseconds(ttl: timedelta) -> int:
    return max(1, int(ttl.total_seconds() * 1000))


def _seen_ttl() -> int:
    return int(SEEN_RETENTION.total_seconds())


def _dictionary(hotkeys: list[str]) -> list[str | int]:
    return [part for hotkey in hotkeys if hotkey for part in (hotkey_digest(hotkey), hotkey)]
