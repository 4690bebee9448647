"""Who may ask, and how much: API keys, limits that replicas share, nonces that are accepted once.

An API key is ``cm_<id>_<secret>``. Its secret has 256 random bits, so one SHA-256 keeps it as safe at rest as a slow
hash would: there is nothing to guess. The id is no secret; it finds the record, and the digests are then compared in
constant time.
"""

from __future__ import annotations

import hmac
import secrets
import time
from datetime import timedelta
from hashlib import sha256
from typing import Any, Literal

import msgspec
from redis.backoff import NoBackoff

from coremesh.errors import BadRequest, HistoryUnavailable, NotFound
from coremesh.history import scripts
from coremesh.history.connect import Connection
from coremesh.history.guard import guarded
from coremesh.history.keys import NONCE_RETENTION, Keys

PREFIX = "cm_"
ID_DIGITS = 12
MAX_NAME_CHARS = 64
MOST_PER_MINUTE = 60_000
"""Each request of the last minute is remembered; this bounds their number."""
MOST_CONCURRENT = 4096


class CallerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An API key at rest. Limits of 0 are none."""

    id: str
    name: str
    digest: bytes
    """SHA-256 of the whole key."""
    created_ms: int
    per_minute: int = 60
    concurrent: int = 4
    scored: bool = True
    """Whether its requests may count for scores."""
    private: bool = False
    """Whether its requests leave no text behind."""
    revoked_ms: int = 0
    """When it was revoked; 0: it is in force."""

    def is_key(self, key: str) -> bool:
        """Whether ``key`` is this key. Takes the same time wherever they differ."""
        return hmac.compare_digest(sha256(key.encode(errors="replace")).digest(), self.digest)


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What to change of a key; None leaves it as it is."""

    per_minute: int | None = None
    concurrent: int | None = None
    scored: bool | None = None
    private: bool | None = None
    revoked_ms: int | None = None


class Verdict(msgspec.Struct, frozen=True):
    """Whether a request is let in: ``ok``, or over its ``rate`` or ``concurrent`` limit, or its key has ``changed``."""

    result: Literal["ok", "rate", "concurrent", "changed"]
    retry_after_s: float = 0.0


class UnknownCaller(NotFound):
    """There is no API key with this id."""

    code = "unknown_key"
    default_remedy = "`coremesh keys list` shows all keys."


_decoder = msgspec.msgpack.Decoder(CallerRecord)
_encode = msgspec.msgpack.Encoder().encode


def id_of(key: str) -> str | None:
    """The id in a key; None for text that is no key of ours."""
    found = key[len(PREFIX) : len(PREFIX) + ID_DIGITS]
    fits = key.startswith(PREFIX) and key[len(PREFIX) + ID_DIGITS :].startswith("_") and len(key) <= 128
    return found if fits and all(c in "0123456789abcdef" for c in found) else None


class RedisCallers:
    """API keys, limits and nonces in one Redis, for all replicas.

    Every method raises HistoryUnavailable when Redis does not answer within ``timeout``. After that it is asked again
    only when ``pause`` has passed, and then by one call alone: the others fail at once until that one has an answer, so
    that no more than one caller at a time waits for a dead Redis.
    """

    def __init__(
        self,
        url: str,
        netuid: int,
        *,
        timeout: timedelta = timedelta(seconds=1),
        pause: timedelta = timedelta(seconds=1),
    ) -> None:
        seconds = timeout.total_seconds()
        self.keys = Keys(netuid)
        # A kept connection may have died with the Redis before: one more try, with a new one.
        self._connection = Connection(
            url, timeout_s=seconds, connect_s=seconds, backoff=NoBackoff, tries=1, patient=False
        )
        self._redis = self._connection.redis
        self._pause_s = pause.total_seconds()
        self._away = False
        self._ask_again_at = 0.0
        self._asking_again = False
        self._replace = self._redis.register_script(scripts.REPLACE_CALLER)
        self._admit = self._redis.register_script(scripts.ADMIT)
        self._hold = self._redis.register_script(scripts.HOLD)

    async def create(self, name: str, changes: Changes | None = None) -> tuple[str, CallerRecord]:
        """A new key and its record; the key itself is kept nowhere. Raises BadRequest for a name or limit that no key
        can have."""
        if not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
            raise BadRequest(f"a key's name has 1 to {MAX_NAME_CHARS} printable characters")
        caller_id = secrets.token_hex(ID_DIGITS // 2)
        key = f"{PREFIX}{caller_id}_{secrets.token_urlsafe(32)}"
        blank = CallerRecord(
            id=caller_id, name=name, digest=sha256(key.encode()).digest(), created_ms=_now_ms()
        )
        record = _changed(blank, changes or Changes())
        await self._call(self._create(record))
        return key, record

    async def records(self) -> list[CallerRecord]:
        """All keys, revoked ones too, oldest first."""
        return sorted(await self._call(self._records()), key=lambda record: (record.created_ms, record.id))

    async def record(self, caller_id: str) -> tuple[CallerRecord, bytes] | None:
        """The key with this id, and its record as Redis has it."""
        return await self._call(self._record(caller_id))

    async def change(self, caller_id: str, changes: Changes) -> CallerRecord:
        """Change a key; in force for the next request, on every replica. Raises UnknownCaller, BadRequest."""
        return await self._call(self._change(caller_id, changes))

    async def revoke(self, caller_id: str) -> CallerRecord:
        """Let a key in no more. Raises UnknownCaller."""
        return await self.change(caller_id, Changes(revoked_ms=_now_ms()))

    async def admit(
        self,
        caller_id: str,
        ticket: str,
        *,
        record: bytes,
        per_minute: int,
        concurrent: int,
        held: timedelta,
    ) -> Verdict:
        """Count one request of a caller, named ``ticket``, unless that is too many; limits of 0 are none.

        It takes one of ``concurrent`` places until it is released, or not held again for ``held``. With a ``record``
        (not empty) the request counts only if that is still what Redis has. A refused request does not count.
        """
        return await self._call(
            self._admitted(
                caller_id,
                [
                    record,
                    ticket,
                    per_minute,
                    concurrent,
                    _milliseconds(held),
                ],
            )
        )

    async def hold(self, caller_id: str, tickets: list[str], held: timedelta) -> None:
        """Keep the places of ``tickets`` for another ``held``, those that have lapsed too: what is being served counts,
        though it may then be more than the limit. One that is given back meanwhile has to be given back again."""
        await self._call(self._held(caller_id, [_milliseconds(held), *tickets]))

    async def release(self, caller_id: str, ticket: str) -> None:
        """Give a place back."""
        await self._call(self._released(caller_id, ticket))

    async def add(self, hotkey: str, nonce_ns: int, now_ns: int) -> bool:
        """See coremesh.wire.nonces.SharedNonceStore."""
        return await self._call(self._added(hotkey, nonce_ns))

    async def close(self) -> None:
        """Give the connections back."""
        await self._connection.close()

    async def _call(self, work: Any) -> Any:
        again = self._away
        if again and (self._asking_again or time.monotonic() < self._ask_again_at):
            work.close()
            raise HistoryUnavailable("Redis did not answer a moment ago")
        self._asking_again = again
        try:
            answer = await work
        except HistoryUnavailable:
            self._away = True
            self._ask_again_at = time.monotonic() + self._pause_s
            raise
        else:
            self._away = False
            return answer
        finally:
            if again:
                self._asking_again = False

    @guarded
    async def _create(self, record: CallerRecord) -> None:
        await self._redis.hsetnx(self.keys.callers, record.id, _encode(record))

    @guarded
    async def _records(self) -> list[CallerRecord]:
        return [_decoder.decode(packed) for packed in await self._redis.hvals(self.keys.callers)]

    @guarded
    async def _record(self, caller_id: str) -> tuple[CallerRecord, bytes] | None:
        packed = await self._redis.hget(self.keys.callers, caller_id)
        return (_decoder.decode(packed), packed) if packed else None

    @guarded
    async def _change(self, caller_id: str, changes: Changes) -> CallerRecord:
        while True:
            packed = await self._redis.hget(self.keys.callers, caller_id)
            if packed is None:
                raise UnknownCaller(f"there is no key {caller_id!r}")
            new = _changed(_decoder.decode(packed), changes)
            if await self._replace(keys=[self.keys.callers], args=[caller_id, packed, _encode(new)]):
                return new

    @guarded
    async def _admitted(self, caller_id: str, args: list[Any]) -> Verdict:
        keys = [self.keys.callers, self.keys.asked(caller_id), self.keys.held(caller_id)]
        result, wait_ms = await self._admit(keys=keys, args=[caller_id, *args])
        return Verdict(result.decode(), max(0, int(wait_ms)) / 1000)

    @guarded
    async def _held(self, caller_id: str, args: list[Any]) -> None:
        await self._hold(keys=[self.keys.held(caller_id)], args=args)

    @guarded
    async def _released(self, caller_id: str, ticket: str) -> None:
        await self._redis.zrem(self.keys.held(caller_id), ticket)

    @guarded
    async def _added(self, hotkey: str, nonce_ns: int) -> bool:
        key = self.keys.nonce(hotkey, nonce_ns)
        return bool(await self._redis.set(key, b"", nx=True, px=_milliseconds(NONCE_RETENTION)))


def _changed(record: CallerRecord, changes: Changes) -> CallerRecord:
    given = {name: value for name, value in msgspec.structs.asdict(changes).items() if value is not None}
    new = msgspec.structs.replace(record, **given)
    if not 0 <= new.per_minute <= MOST_PER_MINUTE:
        raise BadRequest(
            f"requests a minute: got {new.per_minute}; it takes 0 (no limit) to {MOST_PER_MINUTE}"
        )
    if not 0 <= new.concurrent <= MOST_CONCURRENT:
        raise BadRequest(
            f"requests at once: got {new.concurrent}; it takes 0 (no limit) to {MOST_CONCURRENT}"
        )
    return new


def _milliseconds(time_: timedelta) -> int:
    return max(1, int(time_.total_seconds() * 1000))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
