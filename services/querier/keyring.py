"""API keys as this replica knows them."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from coremesh.errors import HistoryUnavailable, Unauthorized
from coremesh.history.callers import CallerRecord, RedisCallers, id_of
from services.querier.caller import Caller, of_key

FRESH_S = 1.0
"""Seconds that a key is not looked up again. A request that counts is checked against Redis all the same."""
MOST = 4096


@dataclass(slots=True)
class _Known:
    record: CallerRecord
    packed: bytes
    confirmed: float


class KeyRing:
    """Finds the caller behind a key.

    While Redis is away, keys that it confirmed within the last ``cache_s`` seconds still count; all others get
    HistoryUnavailable, since nobody can tell whether they are right.
    """

    def __init__(self, store: RedisCallers, *, cache_s: float) -> None:
        self._store = store
        self._cache_s = cache_s
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def caller(self, key: str, *, fresh: bool = False) -> Caller:
        """The caller with this key, ``fresh`` from Redis. Raises Unauthorized, HistoryUnavailable."""
        caller_id = id_of(key)
        known = await self._find(caller_id, fresh) if caller_id is not None else None
        if known is None or not known.record.is_key(key):
            raise Unauthorized("this querier does not know this API key")
        if known.record.revoked_ms:
            raise Unauthorized("this API key has been revoked", remedy="Ask the operator for a new one.")
        return of_key(known.record, known.packed)

    async def _find(self, caller_id: str, fresh: bool) -> _Known | None:
        known = self._known.get(caller_id)
        now = time.monotonic()
        if known is not None and not fresh and now - known.confirmed < FRESH_S:
            return known
        try:
            found = await self._store.record(caller_id)
        except HistoryUnavailable:
            if known is not None and now - known.confirmed < self._cache_s:
                return known
            raise
        if found is None:
            self._known.pop(caller_id, None)
            return None
        self._known[caller_id] = known = _Known(*found, confirmed=now)
        self._known.move_to_end(caller_id)
        if len(self._known) > MOST:
            self._known.popitem(last=False)
        return known
